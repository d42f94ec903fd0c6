"""The ways to the programs of services while they run: over a channel to their node (`lib.run_channel`)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from cumulus.backends import channel
from cumulus.backends.swarm import calls, programs, spec
from cumulus.backends.swarm.records import END, REMOVED, Record
from cumulus.calls import session
from cumulus.errors import BackendError, NotRunning
from cumulus.lib.execution import ExecRequest, Execution


@runtime_checkable
class OpensChannels(Protocol):
    """A node whose programs can be reached."""

    def channel(self) -> socket.socket:
        """A new channel to the node. Raises `BackendError`."""
        ...


class ServiceReach:
    """See `backends.base.WorkloadReach`. `find` gives the run's record; `nodes` gives a node by its name, where it is
    one of `OpensChannels`."""

    def __init__(self, find: Callable[[], Record | None], nodes: Callable[[str], object]) -> None:
        self._find = find
        self._nodes = nodes

    def exec(self, asked: ExecRequest) -> Execution:
        """It gets the secret variables as the program itself does."""
        record = self._running()
        command = (*_exporting(record), *asked.command)
        return channel.execution(self._channel(record), _whose(record), asked._replace(command=command))

    def attach(self, *, stdin: bool) -> Execution:
        record = self._running()
        return channel.attachment(self._channel(record), _whose(record), stdin=stdin)

    def feed(self) -> Execution:
        record = self._running()
        return channel.feeding(self._channel(record), _whose(record))

    def connect(self, port: int) -> socket.socket:
        record = self._running()
        return channel.connected(self._channel(record), _whose(record), port)

    def session(self) -> session.SessionConnection:
        """A program in the container itself connects to the session's socket: outside, a link in its place could lead
        to any other."""
        record = self._find()
        if record is None or not record.start.get("call") or record.has(END):
            raise session.SessionEnded("the session has not begun, or has ended")
        asked = ExecRequest(calls.relay(record), stdin=True)
        try:
            return session.relayed(channel.talk(self._channel(record), _whose(record), asked))
        except NotRunning as error:
            raise session.SessionEnded(f"the session does not run: {error}") from None

    def _running(self) -> Record:
        record = self._find()
        if record is None:
            raise NotRunning("its program has not started yet")
        if record.has(END) or record.has(REMOVED):
            raise NotRunning("its program has ended")
        return record

    def _channel(self, record: Record) -> socket.socket:
        node = record.start["node"]
        found = self._nodes(node)
        if not isinstance(found, OpensChannels):
            raise BackendError(
                f"{node} has no SSH address, over which its programs are reached",
                hint=f"set spec.ssh of gpunode/{node}",
            )
        return found.channel()


def _whose(record: Record) -> dict[str, str]:
    return {"slot": record.name, "label": f"{spec.WORKLOAD}={record.name}"}


def _exporting(record: Record) -> list[str]:
    names = [str(name) for name, *_ in record.start["secrets"]]
    at = programs.SECRETS if record.is_program else spec.SECRETS
    return spec.exporting(names, at) if names else []
