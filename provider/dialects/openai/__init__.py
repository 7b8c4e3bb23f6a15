"""OpenAI's dialect, with the fields that other embedding APIs add to it."""
