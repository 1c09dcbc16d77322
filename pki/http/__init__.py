"""HTTP/1.1 over any Trio stream: a small ASGI server and a small client, both on h11."""
