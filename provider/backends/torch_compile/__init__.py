"""PyTorch, compiled ahead by Inductor and kept on disk."""
