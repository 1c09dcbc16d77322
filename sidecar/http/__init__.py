"""The request boundary: HTTP/1.1 between an agent and its tool, one decision for each request."""
