"""Pure placement: a snapshot of nodes, shares and the queue in, bindings and the reason for each refusal out.

The way of one cycle, from top to bottom. Each module calls only those below it:

    explain        why a gang waits, and when it starts at the latest: the same cycle, for one that asks
    forecast       when it is expected to start, by how early leases have ended before
    node_reasons   why a gang is not on a node, for each node
    cycle          the queue in order: each gang is bound, or waits with a reservation, or only waits
    promises       starts that were promised, kept from cycle to cycle
    assign         the seats of one gang at one moment
    fair           the policies of a cluster with queues: order by use, limits
    policy         who goes first, who may be placed, who must yield
    queues         the tree of queues: what each and each user in it holds and has used
    availability   what is free of each device, now and later
    equivalence    which gangs are alike, so that one refusal answers for many
    linking        how well devices are linked
    fit            whether a device will do, and how large a share of it is
    timeline       what is free of one device over time
    usage          what is counted for a share that was held, and how it fades
    snapshot       nodes, shares that are taken, the gangs that wait
    claim          what one partition asks for or holds
"""
