"""Client of the PostgreSQL server under test.

Both verbs take the server's port on 127.0.0.1 first:

    PORT session
    PORT crowd CONNECTIONS QUERIES

`session` is one connection. It prints a JSON object with its backend's process id, then reads
requests from stdin, one JSON object a line, and answers each with a JSON object on a line:

    {"simple": SQL}                          one message of the simple protocol
    {"extended": SQL, "arguments": [...]}    Parse, Bind, Describe, Execute, Sync
    {"prepared": SQL, "arguments": [...]}    the same; Parse only if SQL was not sent before
    {"cancel": SQL}                          simple, cancelled when the server is running it

An answer has `rows`, or `error` (what the server said) and `state` (its five letters).

`crowd` waits on stdin for a line, then opens its connections at the same time, sends so many
queries on each (every other one with parameters), and prints one JSON object of what came of it.
"""

import json
import sys
import threading

import psycopg

LIMIT = 60


def connect(port):
    # Every statement is a transaction of its own: the client sends no BEGIN that nobody asked for.
    return psycopg.connect(
        host="127.0.0.1",
        port=port,
        user="postgres",
        dbname="postgres",
        connect_timeout=LIMIT,
        autocommit=True,
    )


def rows_of(cursor):
    """Of the last result, as the client protocol has it."""
    while cursor.nextset():
        pass
    return [list(map(plain, row)) for row in cursor] if cursor.description else []


def plain(value):
    return value if isinstance(value, (int, float, str, list, dict, type(None))) else str(value)


def cancel_when_running(connection, port, query):
    """Cancels the query as soon as the server says that it runs it."""
    pid = connection.info.backend_pid
    done = threading.Event()

    def watch():
        with connect(port) as other:
            running = "select state = 'active' and query = %s from pg_stat_activity where pid = %s"
            while not done.is_set():
                if other.execute(running, [query, pid]).fetchone()[0]:
                    connection.cancel_safe(timeout=LIMIT)
                    return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return rows_of(connection.execute(query))
    finally:
        done.set()
        watcher.join()


def answer(connection, port, request):
    arguments = request.get("arguments")
    try:
        if "simple" in request:
            # Without arguments, and not prepared, it is the simple protocol.
            rows = rows_of(connection.execute(request["simple"], prepare=False))
        elif "extended" in request:
            rows = rows_of(connection.execute(request["extended"], arguments, prepare=False))
        elif "prepared" in request:
            rows = rows_of(connection.execute(request["prepared"], arguments, prepare=True))
        else:
            rows = cancel_when_running(connection, port, request["cancel"])
        return {"rows": rows}
    except psycopg.Error as error:
        return {"error": str(error), "state": error.sqlstate}


def say(what):
    print(json.dumps(what), flush=True)


def session(port):
    with connect(port) as connection:
        say({"pid": connection.info.backend_pid})
        for line in sys.stdin:
            say(answer(connection, port, json.loads(line)))


def crowd(port, connections, queries):
    sys.stdin.readline()
    gate = threading.Barrier(connections)
    pids, failures = [], []

    def work(number):
        try:
            gate.wait(LIMIT)
            with connect(port) as connection:
                pids.append(connection.info.backend_pid)
                # Nobody leaves before all are there: no process id is used twice.
                gate.wait(LIMIT)
                for turn in range(queries):
                    if turn % 2 == 0:
                        query = f"select count(*) from numbers where id <= {number}"
                        (found,) = connection.execute(query).fetchone()
                    else:
                        query = "select count(*) from numbers where id <= %s"
                        (found,) = connection.execute(query, [number], prepare=False).fetchone()
                    if found != number:
                        raise AssertionError(f"{found} rows instead of {number}")
        except Exception as error:
            gate.abort()
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say({"pids": pids, "failures": failures, "simple": connections * ((queries + 1) // 2),
         "extended": connections * (queries // 2)})


def main():
    port, verb, *numbers = sys.argv[1:]
    {"session": session, "crowd": crowd}[verb](int(port), *map(int, numbers))


if __name__ == "__main__":
    main()
