"""Work that outlives a request: OpenAI's files, and batches of requests that are answered from them."""
