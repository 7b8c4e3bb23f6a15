"""Texts that commands are given: as arguments, in files and on standard input."""
