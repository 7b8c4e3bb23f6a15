"""The dialect of text-embeddings-inference (TEI): bare lists as answers, and no name of a model."""
