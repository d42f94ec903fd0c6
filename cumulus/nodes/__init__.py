"""How controllers reach nodes: their Chronos and their engine, here or over SSH. The one room that knows fabric.

    agent -> RemoteLeases -> protocol (chronos_cli --json) -> Link (one connection a node, with deadlines) -> host_keys

Nothing of this goes to the worker: there Chronos is standard library only. `install` carries it over.
"""
