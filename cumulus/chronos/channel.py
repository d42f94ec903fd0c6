"""`chronos_cli channel`: programs beside a job's container, and connections to its ports, for controllers.

One pair of streams is one program or one connection: see `lib.run_channel`. What is started is told by a mark in its
environment and by its session, so that it can be found and ended where the controller lets go of it, or goes away. Only
containers of jobs are reached: those that took a slot on this node.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGKILL
from typing import Any

from cumulus.chronos.carrier import DRAIN_SECONDS, GONE, LEFT, Carrier, unpacked
from cumulus.chronos.container_input import ContainerInput
from cumulus.chronos.container_terminal import DETACH_KEYS, Terminal
from cumulus.chronos.engine_api import EngineApi
from cumulus.chronos.home import default_home
from cumulus.chronos.job_container import LOOK, START_SECONDS, JobContainer, exit_code, new_mark, send
from cumulus.errors import BackendError, CumulusError, NotRunning
from cumulus.lib import listeners, processes
from cumulus.lib.execution import MARK
from cumulus.lib.run_channel import CHUNK, ENDED, GREETING, REFUSED, REQUEST, STARTED, ChannelError, Frames

_REQUEST_SECONDS = 30.0
_HANGUP_SECONDS, _KILL_SECONDS = 5.0, 30.0
"""Between SIGHUP and SIGKILL, and for these to take effect."""
_EOF = b"\x04"
"""What a terminal takes for the end of input where a line begins."""
_NOT_STARTED, _NOT_FOUND = 126, 127
_CLONE_NEWNET = 0x40000000


def serve(source: int = 0, sink: int = 1, engine: str = "", home: Path | None = None) -> int:
    """Do what is asked for on `source`, and answer on `sink`. `engine`: the socket of the node's engine; "" for the
    usual one. `home`: CHRONOS_HOME of the node's runtime; None for the usual one."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(SIGHUP, signal.SIG_IGN)
    frames = Frames(source, sink)
    frames.waiting += GREETING
    frames.flush()
    try:
        request = _request(frames)
        if request is None:
            return 1
        reached = JobContainer(EngineApi(engine), str(request["slot"]), str(request["label"]))
        if "exec" in request:
            _Program(reached, request["exec"]).run(frames)
        elif "attach" in request:
            Terminal(reached, request["attach"]).run(frames)
        elif "feed" in request:
            ContainerInput(reached, home or default_home()).run(frames)
        elif "connect" in request:
            _connect(reached, int(request["connect"]), frames)
        else:
            raise BackendError("this version of Chronos does not know what is asked for")
    except ChannelError:
        return 1
    except (CumulusError, OSError, ValueError, KeyError, TypeError) as error:
        frames.put_json(REFUSED, [type(error).__name__, str(error)])
    _flushed(frames)
    return 0


class _Program:
    """What `asked` names, started in the container."""

    def __init__(self, reached: JobContainer, asked: Mapping[str, Any]) -> None:
        self._reached = reached
        self._engine = reached.engine
        self._terminal = str(asked.get("terminal") or "")
        self._stdin = bool(asked.get("stdin"))
        self._size = int(asked.get("columns") or 0), int(asked.get("rows") or 0)
        self._mark = new_mark()
        reached.end_abandoned()
        self._pid = 0
        env = [f"{MARK}={self._mark}"] + ([f"TERM={self._terminal}"] if self._terminal else [])
        made = self._engine.post(
            "/containers/{0}/exec", reached.id,
            body={
                "AttachStdin": self._stdin, "AttachStdout": True, "AttachStderr": True, "Env": env,
                "Tty": bool(self._terminal), "Cmd": [str(word) for word in asked["command"]], "DetachKeys": DETACH_KEYS,
            },
        )  # fmt: skip
        self._id = str(made["Id"])

    def run(self, frames: Frames) -> None:
        """Start it, and stay with it until it has ended."""
        start = {"Detach": False, "Tty": bool(self._terminal)}
        with self._engine.opened("/exec/{0}/start", self._id, body=start) as streams:
            state = self._started()
            if not self._pid and state["ExitCode"] in (_NOT_STARTED, _NOT_FOUND):
                frames.put(STARTED)
                frames.put_json(ENDED, [state["ExitCode"], _all(streams, terminal=bool(self._terminal))])
                return
            frames.put(STARTED)
            watched = self._handle()
            try:
                self._carry(frames, streams, watched)
            except BaseException:
                self._end()
                raise
            finally:
                if watched >= 0:
                    os.close(watched)

    def _carry(self, frames: Frames, streams: socket.socket, watched: int) -> None:
        self._resize(*self._size)
        carrier = Carrier(
            frames, streams, apart=not self._terminal, resize=self._resize,
            end_of_input=(lambda: streams.sendall(_EOF)) if self._terminal else None,
        )  # fmt: skip
        why = carrier.run(watched)
        if why == GONE:
            streams.close()
            self._end()
            return
        # With the program whatever it started ends.
        self._kill()
        if why == LEFT:
            carrier.drain()
        frames.put_json(ENDED, [self._exit_code(), ""])

    def _started(self) -> Mapping[str, Any]:
        """Its state once it runs, or has ended before that was seen."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            state: Mapping[str, Any] = self._engine.get("/exec/{0}/json", self._id)
            self._pid = int(state.get("Pid") or 0)
            if (self._pid and state["Running"]) or state["ExitCode"] is not None or time.monotonic() > deadline:
                return state
            time.sleep(LOOK)

    def _handle(self) -> int:
        """By which its end is noticed; -1 where it is gone."""
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(self._pid)
            if processes.pid_namespace(self._pid) == self._reached.namespace:
                return handle
            os.close(handle)
        return -1

    def _exit_code(self) -> int | None:
        return exit_code(lambda: self._engine.get("/exec/{0}/json", self._id))

    def _resize(self, columns: int, rows: int) -> None:
        if not self._terminal or not (0 < columns < 2**16 and 0 < rows < 2**16):
            return
        with contextlib.suppress(BackendError, NotRunning):
            self._engine.post("/exec/{0}/resize", self._id, w=str(columns), h=str(rows))

    def _members(self) -> set[processes.ProcessIdentity]:
        """It, and what it started, as far as that is in its container."""
        entry, found = f"{MARK}={self._mark}".encode(), set[processes.ProcessIdentity]()
        for pid in self._reached.pids():
            process = processes.read(pid)
            if process is None or not process.alive:
                continue
            if (self._pid and process.session == self._pid) or entry in processes.environment(pid):
                found.add(processes.ProcessIdentity(process.pid, process.start))
        return found

    def _end(self) -> None:
        """SIGHUP, and SIGKILL for what stays."""
        # The second for those that are stopped.
        for number in (SIGHUP, SIGCONT):
            send(self._members(), number)
        deadline = time.monotonic() + _HANGUP_SECONDS
        while time.monotonic() < deadline:
            if not self._members():
                return
            time.sleep(0.1)
        self._kill()

    def _kill(self) -> None:
        deadline = time.monotonic() + _KILL_SECONDS
        while (members := self._members()) and time.monotonic() < deadline:
            send(members, SIGKILL)
            time.sleep(LOOK)


def _connect(reached: JobContainer, port: int, frames: Frames) -> None:
    """A connection to the port, where a process of the container listens."""
    with open(f"/proc/{reached.leader}/ns/net") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            raise BackendError(f"the container's network cannot be entered: {os.strerror(ctypes.get_errno())}")
    with listeners.connected(reached.pids, port) as made:
        frames.put(STARTED)
        Carrier(frames, made).run()
    frames.put_json(ENDED, [None, ""])


def _request(frames: Frames) -> Any:
    """None where none comes."""
    deadline = time.monotonic() + _REQUEST_SECONDS
    while not frames.ended and time.monotonic() < deadline:
        select.select([frames.source], [frames.sink] if frames.waiting else [], [], 1.0)
        frames.flush()
        for frame in frames.take():
            if frame.kind == REQUEST:
                return frame.json()
    return None


def _flushed(frames: Frames) -> None:
    """Let the other side have all, for as long as it takes it and is there."""
    while frames.waiting and not frames.ended:
        select.select([], [frames.sink], [], 1.0)
        frames.flush()


def _all(streams: socket.socket, *, terminal: bool) -> str:
    """What the engine says of a program that it could not start."""
    said = bytearray()
    streams.settimeout(DRAIN_SECONDS)
    with contextlib.suppress(OSError):
        while len(said) < CHUNK and (data := streams.recv(CHUNK)):
            said += data
    text = bytes(said) if terminal else b"".join(content for _, content in unpacked(said))
    return text.decode(errors="replace").strip()
