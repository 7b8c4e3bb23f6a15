"""What this machine can do, and which backend and dtype are the fastest on it, measured."""
