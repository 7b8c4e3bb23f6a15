"""vLLM's routes beside OpenAI's: pooling, and the tokenizer."""
