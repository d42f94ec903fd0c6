"""Pure placement: a snapshot of nodes, shares and the queue in, bindings and the reason for each refusal out.

The way of one cycle, from top to bottom. Each module calls only those below it:

    explain        why a gang waits, and when it starts at the latest: the same cycle, for one that asks
    node_reasons   why a gang is not on a node, for each node
    cycle          the queue in order: each gang is bound, or waits with a reservation, or only waits
    assign         the seats of one gang at one moment
    policy         who goes first, who may be placed, who must yield
    availability   what is free of each device, now and later
    equivalence    which gangs are alike, so that one refusal answers for many
    linking        how well devices are linked
    fit            whether a device will do, and how large a share of it is
    timeline       what is free of one device over time
    snapshot       nodes, shares that are taken, the gangs that wait
    claim          what one partition asks for or holds
"""
