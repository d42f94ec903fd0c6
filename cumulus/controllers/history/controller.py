"""Keeps the history: records what the store's log tells, asks nodes now and then what their leases use, and forgets
what is old. It decides nothing, and nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import structlog

from cumulus.chronos.contract.usage import LeaseUse
from cumulus.clock import Clock
from cumulus.errors import ChronosError
from cumulus.history.follower import HistoryFollower
from cumulus.history.series import Sample
from cumulus.machinery.reconcile import Request, RequeueAfter, Result
from cumulus.nodes.agent import NodeAgent

_log = structlog.get_logger("cumulus.history")

NAME = "history"
LOG, USE, OLD = Request("", "log"), Request("", "use"), Request("", "old")
"""The controller's keys: what there is to record, what leases use, and what is over for long."""
SETTLE = 1.0
"""Seconds after a change until it is recorded, together with what else changes meanwhile."""
NODE_SETTLE = 5.0
"""The same of a node, whose heartbeat is a change."""
LOOK_SECONDS = 60.0
"""How often it is looked at the log though nothing changed that is to be recorded."""
FORGET_SECONDS = 3600.0
_AT_ONCE = 8


class HistoryReconciler:
    def __init__(
        self, follower: HistoryFollower, agents: Mapping[str, NodeAgent], clock: Clock, *, store_id: str
    ) -> None:
        follower.restart()
        self._follower = follower
        self._recorder = follower.recorder
        self._agents = agents
        self._clock = clock
        self._store_id = store_id
        self._forget_at = clock.monotonic()

    def reconcile(self, request: Request) -> Result:
        if request == LOG:
            self._follower.follow(self._store_id)
            return RequeueAfter(LOOK_SECONDS)
        if request == USE:
            self._sample()
            return RequeueAfter(self._recorder.every)
        if (wait := self._forget_at - self._clock.monotonic()) > 0:
            return RequeueAfter(wait)
        self._recorder.forget()
        self._forget_at = self._clock.monotonic() + FORGET_SECONDS
        return RequeueAfter(FORGET_SECONDS)

    def _sample(self) -> None:
        """Ask each node on which leases run. One that does not answer is asked again the next time."""
        agents = [agent for name in sorted(self._recorder.nodes()) if (agent := self._agents.get(name)) is not None]
        if not agents:
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(agents)), thread_name_prefix="history") as threads:
            # With the controller, key and number of this reconcile, which each line that is logged there carries too.
            contexts = [copy_context() for _ in agents]
            told = threads.map(lambda context, agent: context.run(_ask, agent), contexts, agents)
            for agent, uses in zip(agents, told, strict=True):
                if uses:
                    self._recorder.sampled(agent.name, {use.id: sample(use) for use in uses})


def _ask(agent: NodeAgent) -> Sequence[LeaseUse]:
    try:
        return agent.usage()
    except (ChronosError, OSError) as error:
        _log.debug("a node does not tell what its leases use", node=agent.name, error=str(error))
        return ()


def sample(use: LeaseUse) -> Sample:
    """As parts of what is leased."""
    used = None if use.used_memory_bytes is None else use.used_memory_bytes / max(1, use.memory_bytes)
    busy = None if use.used_compute is None else use.used_compute / max(1, use.compute)
    return Sample(used, busy)
