"""A backend for emb-provider."""
