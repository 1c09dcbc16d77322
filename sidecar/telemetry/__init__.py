"""OpenTelemetry spans of what the data path records. Off unless node.toml names a collector."""
