"""Azure OpenAI's dialect: OpenAI's bodies, the model in the path."""
