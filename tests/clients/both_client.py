"""A process with two query engines in it, which does nothing."""

import json
import sys

import duckdb  # noqa: F401
import tantivy  # noqa: F401

print(json.dumps("ready"), flush=True)
sys.stdin.read()
