"""Bulk embedding: many texts to vectors, in this process or by a running server, into a file that can be resumed."""
