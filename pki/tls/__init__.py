"""TLS 1.3 between members: contexts, the stream, and frames on it."""
