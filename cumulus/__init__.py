"""Cumulus runs jobs on a pool of GPU machines, declaratively. Every GPU share is a lease with an end."""

__version__ = "0.1.0"
