"""How controllers reach nodes, here or over SSH: Chronos and the engine there. Only this package knows fabric.

    NodeAgent -> RemoteLeases -> NodeConnection (one SSH connection a node, with deadlines) -> chronos_cli on the node

What is asked and answered is in `cumulus.chronos.contract`. A node gets none of this package: `install` uploads
the distribution cumulus-chronos, which `distribution` builds.
"""
