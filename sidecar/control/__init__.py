"""The local APIs of a daemon, on Unix sockets: who calls is what the kernel says, not what the caller says."""
