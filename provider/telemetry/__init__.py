"""Logs and metrics: listeners to the engine's hooks and to finished requests."""
