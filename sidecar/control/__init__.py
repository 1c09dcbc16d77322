"""The local APIs of a daemon, on Unix sockets: who calls is what the kernel says, not what the caller says."""

SCHEMA_VERSION = 1
"""Of every JSON object that a control socket answers and ``--json`` prints."""
