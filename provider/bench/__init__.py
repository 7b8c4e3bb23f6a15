"""Benchmarks: how fast is a server, or a backend in process, and compared to what.

Every contender has a child process; they are given slices of load in turn. A child is told over its standard input what
to do and answers on its standard output, one JSON document a line (`messages`).

* `job` is a whole run: `processes` starts the children, `rounds` lets them take turns.
* `child` is the other end: `server` (over HTTP, by `connection`), `engine` (this product's backends without HTTP) or
  `library` (sentence-transformers). `load_generator` sends requests, closed or open loop, on `texts`.
* `figures` and `report` make numbers of the answers, `table` and `plots` show them. `flops` is a model's arithmetic.
"""
