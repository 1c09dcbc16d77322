"""The mini CA: the signing half of identity. No daemon imports it; a node must not be able to load signing code."""
