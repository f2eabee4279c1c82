"""A process with an engine in it (`duckdb` or `sqlite`), for the tests: each line of its stdin is a
statement as JSON, each is answered by a line: its rows, or what it failed with."""

import json
import sys


def duckdb():
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 4})
    return lambda sql: connection.execute(sql).fetchall(), duckdb.Error


def sqlite():
    import apsw

    connection = apsw.Connection(":memory:")
    return lambda sql: list(connection.execute(sql)), apsw.Error


def main():
    run, failure = {"duckdb": duckdb, "sqlite": sqlite}[json.loads(sys.argv[1])]()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        try:
            answer = {"rows": run(json.loads(line))}
        except failure as error:
            answer = {"error": str(error)}
        print(json.dumps(answer, default=str), flush=True)


main()
