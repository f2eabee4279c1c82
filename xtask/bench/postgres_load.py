"""A connection to the PostgreSQL server of the benches, on the port of 127.0.0.1 that is given. It
does what each line on stdin says, and answers with a line:

    statement SQL    remembers it: `done`
    COUNT            executes what is remembered so often, with rests between: `done`
    ask SQL          executes it once: a JSON object of its `seconds` and the first `value` it gave

Simple protocol, and no transaction that nobody asked for."""

import json
import sys
import time

import psycopg

REST_S = 0.005

connection = psycopg.connect(
    host="127.0.0.1", port=sys.argv[1], user="postgres", dbname="postgres", autocommit=True
)


def execute(statement):
    cursor = connection.execute(statement, prepare=False)
    return cursor.fetchone()[0] if cursor.description else None


remembered = "select 1"
print("ready", flush=True)
for line in sys.stdin:
    verb, _, rest = line.strip().partition(" ")
    if verb == "statement":
        remembered = rest
        print("done", flush=True)
    elif verb == "ask":
        begin = time.perf_counter()
        value = execute(rest)
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "value": value}), flush=True)
    else:
        for _ in range(int(verb)):
            execute(remembered)
            time.sleep(REST_S)
        print("done", flush=True)
