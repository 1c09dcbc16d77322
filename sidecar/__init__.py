"""The sidecar: what it takes to decide on a stream and to carry it."""
