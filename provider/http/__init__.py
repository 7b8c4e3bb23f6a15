"""The HTTP server's own part: application, admission, authentication, request bodies. Knows no dialect's words."""
