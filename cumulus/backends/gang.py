"""What every replica of a gang is told of the others, by the names that torchrun, JAX and Open MPI give it.

A replica is what torchrun calls a node with a worker of its own. It sees its own devices alone, so LOCAL_RANK is 0: the
number of its first device. NCCL finds out by itself which ranks are on one machine.

Where the others are:

    containers                  `replica-N`, names in the gang's own network
    processes of one node       127.0.0.1
    everything else             the address of the replica's node as the controllers know it: what its GPUNode has for
                                SSH, else its host name. Whether other nodes can reach that is not known here

The port is free on the node of replica 0 where that is this machine, and in a container's own network. Elsewhere it
follows from the job's uid and the attempt, and something else may have it.

The job's own variables win over all of these.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

from cumulus.backends.base import Workload

PORT = 29500
"""In a network of the gang's own; torchrun's default."""
FIRST_PORT, PORTS = 20_000, 10_000
"""From here on, so many: below those that systems give to connections, and to Kubernetes' services."""

HOSTFILE = "CUMULUS_HOSTFILE"
"""The path of the file of hosts."""


def name_of(replica: int) -> str:
    """Its name in the gang's own network."""
    return f"replica-{replica}"


def is_local(workload: Workload) -> bool:
    """Whether all replicas are on one node."""
    return len({member.node for member in workload.gang}) == 1


def addresses(workload: Workload) -> Sequence[str]:
    """Of all replicas, where they have no network of their own."""
    if is_local(workload):
        return ["127.0.0.1"] * len(workload.gang)
    return [member.address or member.node for member in workload.gang]


def port(workload: Workload) -> int:
    """One that all replicas can tell without asking each other."""
    return FIRST_PORT + zlib.crc32(f"{workload.job_uid}/{workload.attempt}".encode()) % PORTS


def hostfile(workload: Workload, hosts: Sequence[str]) -> str:
    """The hosts as Open MPI and DeepSpeed read them: a line for each, with how many devices the gang has there."""
    slots = Counter(hosts)
    each = max(1, len(workload.leases))
    return "".join(f"{host} slots={count * each}\n" for host, count in slots.items())


def gang_environment(workload: Workload, hosts: Sequence[str], port: int, hostfile: str) -> dict[str, str]:
    """The variables of one replica. `hosts`: the addresses of all; `hostfile`: the path of the file, as the program
    sees it."""
    rank, world = str(workload.replica), str(len(workload.gang))
    here = workload.gang[workload.replica].node
    before = sum(member.node == here for member in workload.gang[: workload.replica])
    master, at = hosts[0], str(port)
    return {
        "RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "NODE_RANK": rank, "GROUP_RANK": rank, "GROUP_WORLD_SIZE": world, "MASTER_ADDR": master, "MASTER_PORT": at,
        # torchrun's own options: one that is run in every replica starts a worker for each of its devices.
        "PET_NNODES": world, "PET_NODE_RANK": rank, "PET_NPROC_PER_NODE": str(max(1, len(workload.leases))),
        "PET_MASTER_ADDR": master, "PET_MASTER_PORT": at,
        "JAX_COORDINATOR_ADDRESS": f"[{master}]:{at}" if ":" in master else f"{master}:{at}",
        "JAX_NUM_PROCESSES": world, "JAX_PROCESS_ID": rank,
        "OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_SIZE": world, "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_NODE_RANK": str(before),
        HOSTFILE: hostfile,
    }  # fmt: skip
