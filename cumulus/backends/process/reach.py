"""The ways to a process of this machine while it runs: through its supervisor."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from cumulus.backends.process import execution, forwarding, layout
from cumulus.backends.process.problems import translated
from cumulus.backends.process.run import Run
from cumulus.calls.session import SessionConnection, SessionEnded, connect
from cumulus.errors import BackendError, NotRunning
from cumulus.lib.execution import ExecRequest, Execution


class ProcessReach:
    """See `backends.base.WorkloadReach`. `find` gives the run; it raises `BackendError` where none was made."""

    def __init__(self, find: Callable[[], Run]) -> None:
        self._find = find

    def exec(self, asked: ExecRequest) -> Execution:
        with translated("start a program beside a workload"):
            return execution.begin(self._running().directory, asked)

    def attach(self, *, stdin: bool) -> Execution:
        with translated("attach to a workload"):
            return execution.attach(self._running().directory, stdin=stdin)

    def feed(self) -> Execution:
        with translated("give a workload its input"):
            return execution.feed(self._running().directory)

    def connect(self, port: int) -> socket.socket:
        with translated("connect to a workload"):
            return forwarding.connected(self._running(), port)

    def session(self) -> SessionConnection:
        try:
            run = self._find()
        except BackendError as error:
            # Its attempt is in the status before anything of it is on the disk.
            raise SessionEnded(f"it has not begun: {error}") from None
        with translated("find a session"):
            if run.finished:
                raise SessionEnded("the session has ended")
            call, user = run.spec.get("call"), layout.user_of(run.directory)
            if not call:
                raise SessionEnded("the job is no call, so there is no session")
            return connect(call["directory"], os.geteuid() if user is None else user.uid)

    def _running(self) -> Run:
        run = self._find()
        if run.finished:
            raise NotRunning("its program has ended")
        return run
