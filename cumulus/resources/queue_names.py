"""The name of the queue that everybody has. Standard library alone."""

DEFAULT_QUEUE = "default"
"""The queue of whoever has no other. It need not exist: then it has no limits and the weight 1."""
