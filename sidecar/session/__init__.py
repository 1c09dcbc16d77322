"""Sessions: one run of one agent on this node, and what keeps its processes apart."""
