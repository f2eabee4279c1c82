"""A process with tantivy in it, for the tests: it does what its stdin says, a line of JSON each, and
answers each line with one."""

import json
import sys

import tantivy

DOCUMENTS = 200


def index_of(segments):
    """An index in memory: a segment for each commit, none of them ever merged."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("body", stored=True)
    builder.add_integer_field("number", stored=True, indexed=True, fast=True)
    index = tantivy.Index(builder.build())
    for segment in range(segments):
        writer = index.writer(heap_size=15_000_000, num_threads=1)
        for number in range(DOCUMENTS):
            text = f"hello from document {number} of segment {segment}"
            writer.add_document(tantivy.Document(body=[text], number=[number]))
        writer.commit()
        writer.wait_merging_threads()
    index.reload()
    return index


def do(index, task):
    searcher = index.searcher()
    answer = {"segments": searcher.num_segments, "hits": 0, "errors": []}
    for _ in range(task["count"]):
        try:
            query = index.parse_query(task["query"], ["body"])
            if task.get("how") == "aggregate":
                searcher.aggregate(query, {"mean": {"avg": {"field": "number"}}})
            elif task.get("how") == "lenient":
                query, _ = index.parse_query_lenient(task["query"], ["body"])
                answer["hits"] += searcher.search(query, 10, order_by_field="number").count
            else:
                answer["hits"] += searcher.search(query, 10).count
        except ValueError as error:
            answer["errors"].append(str(error))
    return answer


def main():
    indexes = {name: index_of(segments) for name, segments in json.loads(sys.argv[1]).items()}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(do(indexes[task["index"]], task)), flush=True)


main()
