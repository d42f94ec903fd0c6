"""The objects people write and controllers fill in; one module a kind.

Nothing is imported here: Chronos uses `quantity` alone on a worker, and the command line starts
fast only when pydantic is loaded where models are needed.
"""
