"""The Model Context Protocol at the tool's node: what a message asks for, what of an answer may be seen."""
