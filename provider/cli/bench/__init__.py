"""`emb-provider bench`: how fast is a server, or a backend in process, and compared to what.

The command starts a worker process for every contender and gives them slices of load in turn. A worker is told over
its standard input what to do and answers on its standard output, one JSON document a line (`messages`).

* `command` reads the options, `contenders` starts the workers, `rounds` lets them take turns.
* `worker` is the other end: `server` (over HTTP, by `connection`), `engine` (this product's backends without HTTP) or
  `library` (sentence-transformers). `drive` is the load, closed or open loop (`arrivals`), on `texts`.
* `figures` and `report` make numbers of the answers, `table` and `plots` show them. `flops` is a model's arithmetic.
"""
