"""Docker Swarm as the engine: each replica of an attempt is one service, pinned to the node that scheduling chose.

    controller -> backend.SwarmBackend -> records (what was asked, on this disk) -> spec -> engine -> the Swarm
    the Swarm -> watch (events, and tasks while some are live) -> observe -> records (the end, the log) -> controller

docker is imported in `engine` alone. Swarm starts containers and nothing else: it never restarts, retries or moves
one. That a share has one holder is the ledger's matter: the node's monitor ends a container with its lease, with the
manager dead or the network cut. docs/swarm.md names each pitfall of Swarm and the test that shows how it is met.
"""
