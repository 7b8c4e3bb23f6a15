"""What Jina's API has beside OpenAI's paths: multi-vectors."""
