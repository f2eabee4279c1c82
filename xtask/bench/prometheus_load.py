"""For the benches of Prometheus. `samples` prints what goes into its blocks, as OpenMetrics text;
`ask ADDRESS`: for each line `COUNT` on stdin it sends the same range query so often, and says when it
is done. It rests between queries, so that what traces the server is not behind when the next begins."""

import http.client
import sys
import time
import urllib.parse

BEGIN = 1_699_999_200  # A multiple of the two hours that a block covers.
BLOCKS = 6
HOSTS = 20
SCRAPE_S = 15
REST_S = 0.005

if sys.argv[1] == "samples":
    print("# TYPE load counter")
    for host in range(HOSTS):
        for second in range(0, BLOCKS * 7200, SCRAPE_S):
            print(f'load_total{{host="h{host}"}} {second * (host + 1)} {BEGIN + second}')
    print("# EOF")
else:
    connection = http.client.HTTPConnection(sys.argv[2])
    query = urllib.parse.urlencode({
        "query": "sum by (host) (rate(load_total[5m]))",
        "start": BEGIN + 600,
        "end": BEGIN + BLOCKS * 7200 - 600,
        "step": 60,
    })
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            connection.request("GET", f"/api/v1/query_range?{query}")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200 and len(body) > 1000, body
            time.sleep(REST_S)
        print("done", flush=True)
