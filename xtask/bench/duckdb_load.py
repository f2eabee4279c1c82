"""A process with DuckDB in it, for the benches: for each line `COUNT` on stdin it executes the same
statement so often, and says when it is done. It rests between statements, so that what traces it
is not behind when the next begins."""

import sys
import time

import duckdb

REST_S = 0.005
STATEMENT = (
    "select g, count(*), sum(v) from numbers where i % 7 = 3 group by g having sum(v) > 1 order by g"
)

connection = duckdb.connect(":memory:", config={"threads": 4})
connection.execute(
    "create table numbers as select range as i, range % 10 as g, range * 1.5 as v from range(20000)"
)
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        connection.execute(STATEMENT).fetchall()
        time.sleep(REST_S)
    print("done", flush=True)
