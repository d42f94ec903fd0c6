"""Decides what may be stored: defaults, validation, immutable fields, a kind's own rules. Problems have a field path.

`admit` is for callers that write (`admit_create`, `admit_update`, `admit_status`); `door` is the check that the store
makes of every write, whoever makes it. Nothing here knows YAML: `manifest` places the problems in files.

Nothing is imported here: the command line loads `door` and `problems`, which are light, with each store it opens.
"""
