"""Checkpoints in user code: work that survives the end of a lease. Standard library only, Python 3.9 and later.

It imports nothing else of cumulus, so that this folder alone is enough in a container or a zip file.
"""
