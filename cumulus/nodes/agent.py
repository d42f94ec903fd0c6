"""NodeAgent: how the controllers reach one node. `Agents` has one for each node that this daemon manages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cumulus.chronos.contract import Leases, NodeFacts, PolicyChange
from cumulus.chronos.contract.usage import LeaseUse
from cumulus.machinery.cache import Reader, readable
from cumulus.resources.node import GPUNode


@dataclass(frozen=True, slots=True)
class NodeAgent:
    """`leases` is the node's lease authority, in this process (the ledger) or over the network."""

    name: str
    """The GPUNode's name."""
    leases: Leases
    runtimes: tuple[str, ...] = ("process",)
    """What the node can run: process, container."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that discovery puts on the node; those that people add stay."""
    facts: Callable[[], NodeFacts] = NodeFacts
    """Asked for after the devices."""
    usage: Callable[[], Sequence[LeaseUse]] = lambda: ()
    """What leases use of the devices now. Raises ChronosError."""
    set_policy: Callable[[PolicyChange], object] = lambda change: None
    """Tell the node what it does about overuse and processes without a lease. Raises ChronosError."""
    close: Callable[[], None] = lambda: None
    """Calls that wait fail then, and so do later ones."""


Connect = Callable[[GPUNode], NodeAgent]
"""Makes the agent of a node that has an SSH address; it does not wait for the node."""


class Agents(Mapping[str, NodeAgent]):
    """Those of `here`, and one for each GPUNode with an SSH address, as `reader` has it: made when it is first asked
    for, made anew when the address changes, closed when the node is gone. Safe for use by several threads.
    """

    def __init__(
        self,
        reader: Reader,
        here: Sequence[NodeAgent],
        connect: Connect | None = None,
        *,
        closed: Callable[[GPUNode], bool] = lambda node: False,
    ) -> None:
        """`closed`: nodes that are not to be touched now, told without asking anybody."""
        self._reader = reader
        self._here = {agent.name: agent for agent in here}
        self._connect = connect
        self._closed = closed
        self._lock = threading.Lock()
        self._made: dict[str, tuple[object, NodeAgent]] = {}

    def __getitem__(self, name: str) -> NodeAgent:
        if name in self._here:
            return self._here[name]
        node = readable(self._reader, GPUNode, "", name)
        out = node is None or node.spec.ssh is None or self._closed(node)
        address = None if node is None or out else (node.uid, node.spec.ssh)
        with self._lock:
            known = self._made.get(name)
            if known is not None and known[0] == address:
                return known[1]
            if known is not None:
                del self._made[name]
                known[1].close()
            if node is None or address is None or self._connect is None:
                raise KeyError(name)
            agent = self._connect(node)
            self._made[name] = address, agent
        return agent

    @property
    def here(self) -> Mapping[str, NodeAgent]:
        """Those that need no connection."""
        return self._here

    def __iter__(self) -> Iterator[str]:
        yield from self._here
        if self._connect is not None:
            yield from (
                n.metadata.name
                for n in self._reader.all(GPUNode)
                if n.spec.ssh and n.metadata.name not in self._here and not self._closed(n)
            )

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def close(self) -> None:
        """Close all that were made here."""
        with self._lock:
            for _, agent in self._made.values():
                agent.close()
            self._made.clear()
