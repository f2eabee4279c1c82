"""Client of the Milvus Lite server under test.

Every verb takes the server's address first and prints one JSON object on stdout:

    ADDR ping
    ADDR setup NAME ROWS [--dim 32] [--batch 8192]
    ADDR search NAME COUNT [--threads N] [--nq N] [--topk N] [--filter EXPR]
    ADDR search-two NAME_A NAME_B COUNT [--threads N]
    ADDR malformed NAME COUNT [--threads N]
    ADDR crud NAME
    ADDR load NAME --seconds S [--threads N] [--malformed-every N]
    ADDR on-demand NAME --rest S

The last one is told on stdin how many searches to make, a line each, and says after each line that
they are done.

A server holds its growing rows in chunks of 32,768, so 100,000 rows are searched in four
brute-force passes and 20,000 rows in one.
"""

import argparse
import json
import logging
import sys
import threading
import time

import numpy
from pymilvus import (
    Collection,
    CollectionSchema,
    DataType,
    FieldSchema,
    connections,
    utility,
)

# Expressions that the server answers by throwing: some while it parses the request, on the
# thread of the request, and the last one while it evaluates the filter, on a pool thread.
MALFORMED = (
    "no_such_field > 3",
    "id >",
    "id + + > *",
    "id == 'a string'",
    "id in [1, 'two']",
)


def connect(address, alias):
    """A channel of its own for each client thread, as separate programs would have."""
    connections.connect(alias, uri=f"http://{address}", timeout=60)
    return alias


def open_collection(address, name, alias):
    connect(address, alias)
    return Collection(name, using=alias)


def dimension(collection):
    for field in collection.schema.fields:
        if field.name == "vector":
            return field.params["dim"]
    raise SystemExit(f"collection {collection.name} has no field named vector")


def run_threads(work, number):
    """Runs work(index) on that many threads, all let go at the same moment."""
    gate = threading.Barrier(number + 1)
    results = [None] * number
    failures = []

    def body(index):
        try:
            prepared = work(index)
        except Exception as error:  # The gate must open whatever happened.
            failures.append(error)
            prepared = None
        gate.wait()
        if prepared is not None:
            results[index] = prepared()

    threads = [threading.Thread(target=body, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    gate.wait()
    started = time.monotonic()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results, time.monotonic() - started


def share(count, number, index):
    """How many of count fall to client index of number."""
    return count // number + (1 if index < count % number else 0)


class Tally:
    """What became of the requests of one client."""

    def __init__(self):
        self.sent = 0
        self.ok = 0
        self.hits = 0
        self.errors = []
        self.wall_us = []

    def run(self, request):
        self.sent += 1
        before = time.monotonic_ns()
        try:
            self.hits += request()
            self.ok += 1
        except Exception as error:
            self.errors.append(str(error)[:200])
        self.wall_us.append((time.monotonic_ns() - before) // 1000)


def merged(tallies, seconds):
    wall = sorted(us for tally in tallies for us in tally.wall_us)
    errors = [text for tally in tallies for text in tally.errors]
    return {
        "sent": sum(tally.sent for tally in tallies),
        "ok": sum(tally.ok for tally in tallies),
        "hits": sum(tally.hits for tally in tallies),
        "errors": len(errors),
        "error_texts": sorted(set(errors))[:10],
        "seconds": round(seconds, 6),
        "wall_us": wall,
    }


def searcher(collection, generator, nq, topk, expression):
    dim = dimension(collection)

    def request():
        vectors = generator.random((nq, dim), dtype=numpy.float32)
        found = collection.search(
            vectors,
            "vector",
            {"metric_type": "L2", "params": {}},
            limit=topk,
            expr=expression,
            timeout=60,
        )
        return sum(len(hits) for hits in found)

    return request


def ping(args):
    connect(args.address, "default")
    return {"collections": utility.list_collections(timeout=10)}


def setup(args):
    connect(args.address, "default")
    if utility.has_collection(args.name):
        utility.drop_collection(args.name)
    schema = CollectionSchema(
        [
            FieldSchema("id", DataType.INT64, is_primary=True),
            FieldSchema("number", DataType.INT64),
            FieldSchema("vector", DataType.FLOAT_VECTOR, dim=args.dim),
        ]
    )
    collection = Collection(args.name, schema)
    generator = numpy.random.default_rng(7)
    for begin in range(0, args.rows, args.batch):
        end = min(begin + args.batch, args.rows)
        ids = numpy.arange(begin, end, dtype=numpy.int64)
        vectors = generator.random((end - begin, args.dim), dtype=numpy.float32)
        collection.insert([ids, ids % 100, vectors])
    collection.flush()
    collection.create_index(
        "vector", {"index_type": "FLAT", "metric_type": "L2", "params": {}}
    )
    collection.load()
    # The first search of a collection opens its segment: not part of what tests count.
    searcher(collection, generator, 1, 1, None)()
    return {"rows": collection.num_entities, "dim": args.dim}


def clients(args, names, count):
    """COUNT searches on each collection, spread over the same threads, taking turns."""

    def work(index):
        generator = numpy.random.default_rng(1000 + index)
        opened = [
            open_collection(args.address, name, f"client{index}") for name in names
        ]
        requests = [
            searcher(each, generator, args.nq, args.topk, args.filter)
            for each in opened
        ]
        mine = share(count, args.threads, index)

        def go():
            tally = Tally()
            for turn in range(mine):
                # Clients start on different collections, so that both are always under way.
                order = requests if (turn + index) % 2 == 0 else requests[::-1]
                for request in order:
                    tally.run(request)
            return tally

        return go

    tallies, seconds = run_threads(work, args.threads)
    return merged(tallies, seconds)


def search(args):
    return clients(args, [args.name], args.count)


def search_two(args):
    return clients(args, [args.name_a, args.name_b], args.count)


def malformed(args):
    def work(index):
        collection = open_collection(args.address, args.name, f"client{index}")
        generator = numpy.random.default_rng(index)
        requests = [
            searcher(collection, generator, 1, 10, text) for text in MALFORMED
        ]
        mine = share(args.count, args.threads, index)

        def go():
            tally = Tally()
            for turn in range(mine):
                tally.run(requests[turn % len(requests)])
            return tally

        return go

    tallies, seconds = run_threads(work, args.threads)
    return merged(tallies, seconds)


def load(args):
    """Searches without a pause for so long; every Nth request is malformed on purpose.

    Says "started" on stderr once all its clients are connected and have had an answer.
    """
    started = threading.Barrier(args.threads)

    def work(index):
        collection = open_collection(args.address, args.name, f"client{index}")
        generator = numpy.random.default_rng(index)
        good = searcher(collection, generator, 1, 10, None)
        bad = [searcher(collection, generator, 1, 10, text) for text in MALFORMED]

        def go():
            right, wrong = Tally(), Tally()
            right.run(good)
            if started.wait() == 0:
                print("started", file=sys.stderr, flush=True)
            end = time.monotonic() + args.seconds
            while time.monotonic() < end:
                turn = right.sent + wrong.sent + 1
                if args.malformed_every and turn % args.malformed_every == 0:
                    wrong.run(bad[wrong.sent % len(bad)])
                else:
                    right.run(good)
            return right, wrong

        return go

    pairs, seconds = run_threads(work, args.threads)
    answer = merged([right for right, _ in pairs], seconds)
    answer["malformed"] = merged([wrong for _, wrong in pairs], seconds)
    return answer


def on_demand(args):
    collection = open_collection(args.address, args.name, "default")
    request = searcher(collection, numpy.random.default_rng(11), 1, 10, None)
    print("ready", flush=True)
    made = 0
    for line in sys.stdin:
        for _ in range(int(line)):
            request()
            made += 1
            time.sleep(args.rest)
        print("done", flush=True)
    return {"sent": made}


def crud(args):
    collection = open_collection(args.address, args.name, "default")
    generator = numpy.random.default_rng(3)
    dim = dimension(collection)
    vectors = generator.random((2, dim), dtype=numpy.float32)
    base = 10_000_000
    inserted = collection.insert([[base, base + 1], [1, 2], vectors])
    upserted = collection.upsert([[base + 1], [9], vectors[:1]])
    queried = collection.query(f"id in [{base}, {base + 1}]", output_fields=["number"])
    deleted = collection.delete(f"id in [{base}, {base + 1}]")
    return {
        "insert": inserted.insert_count,
        "upsert": upserted.upsert_count,
        "query": len(queried),
        "delete": deleted.delete_count,
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="HOST:PORT of the server")
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name, function, *positional):
        sub = verbs.add_parser(name)
        for word in positional:
            sub.add_argument(word, type=int if word in ("rows", "count") else str)
        sub.set_defaults(function=function)
        return sub

    def search_options(sub, threads):
        sub.add_argument("--threads", type=int, default=threads)
        sub.add_argument("--nq", type=int, default=1)
        sub.add_argument("--topk", type=int, default=10)
        sub.add_argument("--filter", default=None)

    verb("ping", ping)
    sub = verb("setup", setup, "name", "rows")
    sub.add_argument("--dim", type=int, default=32)
    sub.add_argument("--batch", type=int, default=8192)
    search_options(verb("search", search, "name", "count"), 1)
    search_options(verb("search-two", search_two, "name_a", "name_b", "count"), 4)
    sub = verb("malformed", malformed, "name", "count")
    sub.add_argument("--threads", type=int, default=1)
    verb("crud", crud, "name")
    sub = verb("load", load, "name")
    sub.add_argument("--seconds", type=float, required=True)
    sub.add_argument("--threads", type=int, default=4)
    sub.add_argument("--malformed-every", type=int, default=0)
    verb("on-demand", on_demand, "name").add_argument("--rest", type=float, default=0)
    return parser.parse_args()


def main():
    # The library logs each failed call; the answer on stdout counts them.
    logging.disable(logging.CRITICAL)
    args = parse()
    json.dump(args.function(args), sys.stdout)
    print()


if __name__ == "__main__":
    main()
