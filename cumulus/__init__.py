"""Cumulus: a pool of GPU machines made declarative, in which every GPU share is a lease with an end."""

__version__ = "0.1.0"
