"""Keeps the history: what leases, promises and use were."""
