"""Texts to vectors: tokenizer, cache, batcher, lanes. Knows neither HTTP nor torch."""
