"""A process with DuckDB in it, for the tests: it does what its stdin says, a line of JSON each, and
answers each line with one."""

import json
import sys
import threading

import duckdb

ROW_GROUP = 122_880


def fetched(connection, sql):
    return connection.execute(sql).fetchall()


def related(connection, sql):
    return connection.sql(sql).fetchall()


def many(connection, sql):
    connection.executemany(sql, [[1, 2, 3.0, "4"], [5, 6, 7.0, "8"]])
    return []


WAYS = {"execute": fetched, "relation": related, "many": many}


def run(database, task, start):
    """`count` times the same statement on a connection of its own, as a thread of its own."""
    connection = database.cursor()
    ask = WAYS[task.get("how", "execute")]
    answer = {"thread": threading.get_native_id(), "rows": 0, "errors": []}
    start.wait()
    for _ in range(task["count"]):
        try:
            answer["rows"] += len(ask(connection, task["sql"]))
        except duckdb.Error as error:
            answer["errors"].append(str(error).splitlines()[0])
    connection.close()
    return answer


def concurrently(database, tasks):
    start = threading.Barrier(len(tasks))
    answers = [None] * len(tasks)

    def one(number):
        answers[number] = run(database, tasks[number], start)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def main():
    database = duckdb.connect(":memory:", config={"threads": 4})
    for name, row_groups in json.loads(sys.argv[1]).items():
        database.execute(
            f"create table {name} as select range as i, range % 10 as g, range * 1.5 as v, "
            f"range::varchar as s from range({row_groups * ROW_GROUP})"
        )
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(concurrently(database, json.loads(line))), flush=True)


main()
