"""The HTTP side: OpenAI's API, without logic of its own."""
