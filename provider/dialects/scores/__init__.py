"""Scores of pairs and of texts: rerank as Cohere, Jina, Voyage, LiteLLM and TEI have it, score and classify as vLLM."""
