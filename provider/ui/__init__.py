"""The page that people open: its files, built from `frontend`, and the two questions that no API answers."""
