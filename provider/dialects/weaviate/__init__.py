"""The API of Weaviate's modules for local models: text2vec-transformers and reranker-transformers."""
