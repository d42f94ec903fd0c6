"""The binding controller: one key for the whole queue. Builds a snapshot, runs a scheduling cycle
on it, writes the bindings.

What goes where, and why not, is decided in `cumulus.scheduling`, which knows no store.
"""
