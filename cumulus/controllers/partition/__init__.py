"""The partition controller: takes bound partitions to their node for a lease, follows the lease, and gives it back.

The way of one reconcile, from top to bottom:

    controller   reads the partition, asks its node, writes what follows, and renews a lease that nobody waits for
    plan         what follows from the node's answer; pure
"""
