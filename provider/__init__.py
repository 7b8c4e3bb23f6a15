"""emb-provider: a self-hosted, OpenAI-compatible embeddings service.

Importing the package costs nothing: the heavy parts (torch, litestar) load where they are used.
"""

__version__ = "0.1.0"
