"""`emb-provider embed`: texts to vectors, in process or by a running server, into a file that can be resumed."""
