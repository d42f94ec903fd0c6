"""`chronos_cli channel`: programs beside a job's container, and connections to its ports, for controllers.

One pair of streams is one program or one connection: see `lib.run_channel`. What is started is told by a mark in its
environment and by its session, so that it can be found and ended where the controller lets go of it, or goes away. Only
containers of jobs are reached: those that took a slot on this node.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGKILL
from typing import IO, Any

from cumulus.chronos.engine_api import EngineApi
from cumulus.chronos.home import default_home
from cumulus.chronos.runtime import END, GIVEN, INPUTS, SLOT_VARIABLE, SLOTS
from cumulus.errors import BackendError, CumulusError, NotRunning
from cumulus.lib import listeners, processes, unix_socket
from cumulus.lib.execution import DETACH, MARK
from cumulus.lib.run_channel import (
    CHUNK,
    ENDED,
    FULL,
    GREETING,
    REFUSED,
    REQUEST,
    SILENT_SECONDS,
    SIZE,
    STARTED,
    STDERR,
    STDIN,
    STDOUT,
    ChannelError,
    Frames,
)

_REQUEST_SECONDS, _START_SECONDS, _JOIN_SECONDS = 30.0, 20.0, 5.0
_DRAIN_SECONDS, _DRAIN_MOST = 2.0, 2**24
"""For what a program that has ended wrote last: without a byte, and bytes. Pipes and the engine hold less."""
_HANGUP_SECONDS, _KILL_SECONDS = 5.0, 30.0
"""Between SIGHUP and SIGKILL, and for these to take effect."""
_LOOK = 0.02
_EOF = b"\x04"
"""What a terminal takes for the end of input where a line begins."""
_DETACH = "ctrl-^,ctrl-_,ctrl-^,ctrl-_"
"""The engine lets no terminal be without keys to leave it. These nobody types."""
_NOT_STARTED, _NOT_FOUND = 126, 127
_CLONE_NEWNET = 0x40000000
_MARK = re.compile(rb"(\d{1,10})-(\d{1,20})-[0-9a-f]{16}")
_HEAD = struct.Struct(">BxxxI")

_ALONE_LOOK = 0.5
"""Between looks for one who is attached."""
_SHOWN, _SHOWN_LINES = 2**16, 500
"""Of its log, what one who is attached is shown first: bytes, and lines."""

_GONE, _OVER, _LEFT = "the controller has gone", "nothing more comes", "the program has ended"
_DETACHED = "who typed has detached"


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
        reached = _Reached(EngineApi(engine), str(request["slot"]), str(request["label"]))
        if "exec" in request:
            _Program(reached, request["exec"]).run(frames)
        elif "attach" in request:
            _Terminal(reached, request["attach"]).run(frames)
        elif "feed" in request:
            _Input(reached, home or default_home()).run(frames)
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


class _Reached:
    """The container of a slot, which has a label too. Raises NotRunning where none runs."""

    def __init__(self, engine: EngineApi, slot: str, label: str) -> None:
        self.engine = engine
        found = []
        for each in engine.get("/containers/json", filters=json.dumps({"label": [label]})):
            # One that has just ended is none of them.
            with contextlib.suppress(NotRunning):
                found.append(engine.get("/containers/{0}/json", each["Id"]))
        # A label may be the image's, and so of whoever made that.
        ours = [each for each in found if f"{SLOT_VARIABLE}={slot}" in (each["Config"].get("Env") or ())]
        if not ours:
            raise NotRunning("its program has not started yet, or has ended")
        self.id: str = ours[0]["Id"]
        self.leader: int = ours[0]["State"]["Pid"]
        self.namespace = processes.pid_namespace(self.leader)
        if not self.namespace:
            if processes.is_gone(self.leader):
                raise NotRunning("its program has ended")
            raise BackendError("the node is not entered as root: programs beside its containers take that")
        if self.namespace == processes.pid_namespace(os.getpid()):
            raise BackendError("its container has no PID namespace of its own")

    def pids(self) -> set[int]:
        """Of the processes in it."""
        return {pid for pid in processes.pids() if processes.pid_namespace(pid) == self.namespace}

    def end_abandoned(self) -> None:
        """Kill what was started by a process like this one that was killed."""
        # A mark that the container's own program has was given to it by its job, or by its image.
        own = _mark_of(self.leader)
        for process in processes.living(self.pids()):
            if (mark := _mark_of(process.pid)) != own and _is_abandoned(mark):
                _send({process}, SIGKILL)


def _new_mark() -> str:
    """It names the process that is to end what has it."""
    me = processes.read(os.getpid())
    return f"{os.getpid()}-{me.start if me else 0}-{os.urandom(8).hex()}"


def _mark_of(pid: int) -> bytes:
    entries = processes.environment(pid)
    return next((each.partition(b"=")[2] for each in entries if each.startswith(f"{MARK}=".encode())), b"")


def _is_abandoned(mark: bytes) -> bool:
    found = _MARK.fullmatch(mark)
    return found is not None and not processes.is_alive(processes.Identity(int(found[1]), int(found[2])))


class _Program:
    """What `asked` names, started in the container."""

    def __init__(self, reached: _Reached, asked: Mapping[str, Any]) -> None:
        self._reached = reached
        self._engine = reached.engine
        self._terminal = str(asked.get("terminal") or "")
        self._stdin = bool(asked.get("stdin"))
        self._size = int(asked.get("columns") or 0), int(asked.get("rows") or 0)
        self._mark = _new_mark()
        reached.end_abandoned()
        self._pid = 0
        env = [f"{MARK}={self._mark}"] + ([f"TERM={self._terminal}"] if self._terminal else [])
        made = self._engine.post(
            "/containers/{0}/exec", reached.id,
            body={
                "AttachStdin": self._stdin, "AttachStdout": True, "AttachStderr": True, "Env": env,
                "Tty": bool(self._terminal), "Cmd": [str(word) for word in asked["command"]], "DetachKeys": _DETACH,
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
        if why == _GONE:
            streams.close()
            self._end()
            return
        # With the program whatever it started ends.
        self._kill()
        if why == _LEFT:
            carrier.drain()
        frames.put_json(ENDED, [self._exit_code(), ""])

    def _started(self) -> Mapping[str, Any]:
        """Its state once it runs, or has ended before that was seen."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            state: Mapping[str, Any] = self._engine.get("/exec/{0}/json", self._id)
            self._pid = int(state.get("Pid") or 0)
            if (self._pid and state["Running"]) or state["ExitCode"] is not None or time.monotonic() > deadline:
                return state
            time.sleep(_LOOK)

    def _handle(self) -> int:
        """By which its end is noticed; -1 where it is gone."""
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(self._pid)
            if processes.pid_namespace(self._pid) == self._reached.namespace:
                return handle
            os.close(handle)
        return -1

    def _exit_code(self) -> int | None:
        return _exit_code(lambda: self._engine.get("/exec/{0}/json", self._id))

    def _resize(self, columns: int, rows: int) -> None:
        if not self._terminal or not (0 < columns < 2**16 and 0 < rows < 2**16):
            return
        with contextlib.suppress(BackendError, NotRunning):
            self._engine.post("/exec/{0}/resize", self._id, w=str(columns), h=str(rows))

    def _members(self) -> set[processes.Identity]:
        """It, and what it started, as far as that is in its container."""
        entry, found = f"{MARK}={self._mark}".encode(), set[processes.Identity]()
        for pid in self._reached.pids():
            process = processes.read(pid)
            if process is None or not process.alive:
                continue
            if (self._pid and process.session == self._pid) or entry in processes.environment(pid):
                found.add(processes.Identity(process.pid, process.start))
        return found

    def _end(self) -> None:
        """SIGHUP, and SIGKILL for what stays."""
        # The second for those that are stopped.
        for number in (SIGHUP, SIGCONT):
            _send(self._members(), number)
        deadline = time.monotonic() + _HANGUP_SECONDS
        while time.monotonic() < deadline:
            if not self._members():
                return
            time.sleep(0.1)
        self._kill()

    def _kill(self) -> None:
        deadline = time.monotonic() + _KILL_SECONDS
        while (members := self._members()) and time.monotonic() < deadline:
            _send(members, SIGKILL)
            time.sleep(_LOOK)


class _Terminal:
    """The terminal of the container's own program, for one who is attached to it.

    Where the last of them has gone without a word the program gets SIGHUP after a minute: whoever goes waits for that,
    and leaves it to the next one who comes. They know of each other by a lock on the container's namespace."""

    def __init__(self, reached: _Reached, asked: Mapping[str, Any]) -> None:
        self._reached = reached
        self._engine = reached.engine
        self._stdin = bool(asked["stdin"])
        self._alone = float(asked["alone"])
        if not self._engine.get("/containers/{0}/json", reached.id)["Config"].get("Tty"):
            raise NotRunning("its program has no terminal")

    def run(self, frames: Frames) -> None:
        place, id = "/containers/{0}/attach", self._reached.id
        how = {"stream": "1", "stdout": "1", "stderr": "1", "stdin": str(int(self._stdin)), "detachKeys": _DETACH}
        with open(f"/proc/{self._reached.leader}/ns/pid") as lock:
            _lock_shared(lock)
            with self._engine.opened(place, id, **how) as streams:
                frames.put(STARTED)
                frames.put(STDOUT, self._shown())
                carrier = Carrier(
                    frames, streams, resize=self._resize, end_of_input=lambda: None,
                    leave=DETACH if self._stdin else b"",
                )  # fmt: skip
                why = carrier.run()
            if why == _GONE:
                self._wait_for_another(lock)
                return
        frames.put_json(ENDED, [0 if why == _DETACHED else self._exit_code(), ""])

    def _shown(self) -> bytes:
        """The end of its log, which is what was on its screen. The last line comes there once it is whole."""
        with contextlib.suppress(BackendError, NotRunning):
            return self._engine.text(
                "/containers/{0}/logs", self._reached.id, stdout="1", stderr="1", tail=str(_SHOWN_LINES)
            )[-_SHOWN:]  # fmt: skip
        return b""

    def _resize(self, columns: int, rows: int) -> None:
        if not (0 < columns < 2**15 and 0 < rows < 2**15):
            return
        # A size that is none of before makes a shell show its line again.
        for width in (columns + 1, columns):
            with contextlib.suppress(BackendError, NotRunning):
                self._engine.post("/containers/{0}/resize", self._reached.id, w=str(width), h=str(rows))

    def _wait_for_another(self, lock: IO[str]) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)
        _let_go_of_streams()
        deadline = time.monotonic() + self._alone
        while time.monotonic() < deadline:
            if processes.pid_namespace(self._reached.leader) != self._reached.namespace:
                return
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(_ALONE_LOOK)
        _hang_up(self._reached)

    def _exit_code(self) -> int | None:
        return _exit_code(lambda: self._engine.get("/containers/{0}/json", self._reached.id)["State"])


def _hang_up(reached: _Reached) -> None:
    """SIGHUP to the program, as when its terminal is closed.

    What that does by default would end the program. The kernel keeps it from the first process of a container, so
    that one which has only just begun would go on as if nothing had been (pid_namespaces(7)): it is killed instead.
    Later the first is an init that hands signals on. It waits for them, in which time it does not seem to block any."""
    first = processes.read(reached.leader)
    if first is not None and reached.pids() == {first.pid} and processes.takes_default(first.pid, SIGHUP):
        _send({processes.Identity(first.pid, first.start)}, SIGKILL)
        return
    for number in (SIGHUP, SIGCONT):
        _send(_session_of(reached), number)


def _session_of(reached: _Reached) -> set[processes.Identity]:
    """Those that a terminal tells when it is closed: who leads its session, and all of that."""
    found = (processes.read(pid) for pid in reached.pids())
    leader = processes.read(reached.leader)
    sessions = {reached.leader} | ({leader.session} if leader is not None else set())
    return {processes.Identity(each.pid, each.start) for each in found if each and each.session in sessions}


class _Input:
    """The standard input of the container's own program, which waits for it at a pipe: see `runtime.hold_input`.

    Where whoever feeds it goes away before its end, the program gets SIGHUP first: half an input never looks like a
    whole one."""

    def __init__(self, reached: _Reached, home: Path) -> None:
        self._reached = reached
        self._place = home / SLOTS / INPUTS / reached.id

    def run(self, frames: Frames) -> None:
        pipe, holder = self._taken()
        try:
            frames.put(STARTED)
            if not self._carried(frames, pipe):
                _hang_up(self._reached)
            with contextlib.suppress(OSError):
                holder.send(END)
        finally:
            os.close(pipe)
            holder.close()
        frames.put_json(ENDED, [0, ""])

    def _taken(self) -> tuple[int, socket.socket]:
        """The writable end of its pipe, and whom to tell that all is written. Raises NotRunning."""
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        holder.settimeout(_JOIN_SECONDS)
        try:
            with unix_socket.short(str(self._place)) as address:
                holder.connect(address)
            _, descriptors, _, _ = socket.recv_fds(holder, len(GIVEN), 1, socket.MSG_CMSG_CLOEXEC)
            if descriptors:
                os.set_blocking(descriptors[0], False)
                return descriptors[0], holder
        except OSError:
            pass
        holder.close()
        raise NotRunning("its program waits for no input, or was given it before")

    def _carried(self, frames: Frames, pipe: int) -> bool:
        """Whether the program has taken all, or takes no more. False where whoever feeds it is gone."""
        waits, whole, heard = bytearray(), False, time.monotonic()
        while waits or not whole:
            poll = select.poll()
            listens = len(waits) < FULL
            poll.register(frames.source, select.POLLIN if listens else 0)
            if frames.waiting:
                poll.register(frames.sink, select.POLLOUT)
            poll.register(pipe, select.POLLOUT if waits else 0)
            ready = dict(poll.poll(1000))
            if ready.get(pipe, 0) & select.POLLERR:
                return True
            frames.flush()
            if ready.get(frames.source, 0) & select.POLLIN:
                heard = time.monotonic()
                for frame in frames.take():
                    if frame.kind == STDIN:
                        waits += frame.data
                        whole = whole or not frame.data
            elif frames.source in ready:
                return False
            if frames.ended or (listens and time.monotonic() - heard > SILENT_SECONDS):
                return False
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                while waits:
                    del waits[: os.write(pipe, waits[:CHUNK])]
        return True


def _exit_code(state: Callable[[], Mapping[str, Any]]) -> int | None:
    """Of what is ending, by what the engine says of it. None where that does not tell: once a container is deleted, the
    engine knows nothing of what ran in it."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            now = state()
        except (BackendError, NotRunning):
            return None
        if not now["Running"]:
            return None if now["ExitCode"] is None else int(now["ExitCode"])
        time.sleep(_LOOK)
    return None


def _lock_shared(lock: IO[str]) -> None:
    """Raises BackendError where the container's own program has the lock, which each of its processes can take."""
    deadline = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BackendError("its program locks its own PID namespace, so nobody can be attached") from None
        time.sleep(_LOOK)


def _let_go_of_streams() -> None:
    """Let the connection over which this was started end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)


def _connect(reached: _Reached, port: int, frames: Frames) -> None:
    """A connection to the port, where a process of the container listens."""
    with open(f"/proc/{reached.leader}/ns/net") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            raise BackendError(f"the container's network cannot be entered: {os.strerror(ctypes.get_errno())}")
    with listeners.connected(reached.pids, port) as made:
        frames.put(STARTED)
        Carrier(frames, made).run()
    frames.put_json(ENDED, [None, ""])


class Carrier:
    """Carries what comes in frames to a socket, and what comes from there in frames. `apart`: it gives two streams, as
    the engine packs them; `resize` is told of other sizes, `end_of_input` called where the socket is not to be shut. At
    the keys `leave` whoever types them is let go."""

    def __init__(
        self, frames: Frames, far: socket.socket, *, apart: bool = False,
        resize: Callable[[int, int], None] = lambda columns, rows: None,
        end_of_input: Callable[[], object] | None = None, leave: bytes = b"",
    ) -> None:  # fmt: skip
        self._leave = leave
        self._held = b""
        """The first of those keys, if it was typed last."""
        self._left = False
        self._frames = frames
        self._far = far
        self._apart = apart
        self._resize = resize
        self._end_of_input = end_of_input
        self._typed = bytearray()
        self._packed = bytearray()
        self._no_more = False
        self._carried = 0
        """Bytes that came from the far side."""
        self._heard = time.monotonic()
        far.setblocking(False)

    def run(self, watched: int = -1) -> str:
        """Until `watched` is readable, or one of the two sides has ended: which of them."""
        return self._run(watched, drains=False)

    def drain(self) -> None:
        """Carry what the far side has written, which has ended, however slowly the other one takes it."""
        self._run(-1, drains=True)

    def _run(self, watched: int, *, drains: bool) -> str:
        frames, last, most = self._frames, time.monotonic(), self._carried + _DRAIN_MOST
        while not (drains and (time.monotonic() > last + _DRAIN_SECONDS or self._carried > most)):
            if frames.ended:
                return _GONE
            listens = len(self._typed) < FULL
            poll = select.poll()
            # Also where nothing is read: whether the other side is gone.
            poll.register(frames.source, select.POLLIN if listens else 0)
            if frames.waiting:
                poll.register(frames.sink, select.POLLOUT)
            far = (select.POLLIN if len(frames.waiting) < FULL else 0) | (select.POLLOUT if self._typed else 0)
            if far:
                poll.register(self._far, far)
            if watched >= 0:
                poll.register(watched, select.POLLIN)
            ready = dict(poll.poll(1000))
            if not far & select.POLLIN:
                last = time.monotonic()
            if listens and time.monotonic() - self._heard > SILENT_SECONDS:
                return _GONE
            if frames.sink in ready:
                frames.flush()
            if ready.get(frames.source, 0) & select.POLLIN:
                self._listen()
            elif frames.source in ready:
                return _GONE
            self._type()
            if self._left:
                return _DETACHED
            if ready.get(self._far.fileno(), 0) & ~select.POLLOUT:
                last = time.monotonic()
                if not self._show():
                    return _OVER
            if watched in ready:
                return _LEFT
        return _OVER

    def _listen(self) -> None:
        self._heard = time.monotonic()
        for frame in self._frames.take():
            if frame.kind == STDIN and frame.data:
                self._typed += self._without_keys(frame.data) if self._leave else frame.data
            elif frame.kind == STDIN:
                self._no_more = True
            elif frame.kind == SIZE:
                columns, rows = frame.json()
                self._resize(int(columns), int(rows))

    def _without_keys(self, data: bytes) -> bytes:
        typed, keys, _ = (self._held + data).partition(self._leave)
        self._left = self._left or bool(keys)
        self._held = self._leave[:1] if not keys and typed.endswith(self._leave[:1]) else b""
        return typed.removesuffix(self._held)

    def _type(self) -> None:
        try:
            while self._typed:
                del self._typed[: self._far.send(self._typed[:CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            # Nobody reads it any more: what it writes may still come.
            self._typed.clear()
        if self._no_more:
            self._no_more = False
            with contextlib.suppress(OSError):
                if self._end_of_input is None:
                    self._far.shutdown(socket.SHUT_WR)
                else:
                    self._end_of_input()

    def _show(self) -> bool:
        """False where nothing more comes."""
        try:
            data = self._far.recv(CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        self._carried += len(data)
        if not self._apart:
            if data:
                self._frames.put(STDOUT, data)
            return data != b""
        self._packed += data
        for stream, content in unpacked(self._packed):
            self._frames.put(STDERR if stream == 2 else STDOUT, content)
        return data != b""


def unpacked(packed: bytearray) -> Iterator[tuple[int, bytes]]:
    """The streams that the engine packed into one, as far as they have come; they are taken away."""
    while len(packed) >= _HEAD.size:
        stream, size = _HEAD.unpack_from(packed)
        if len(packed) < _HEAD.size + size:
            return
        content = bytes(packed[_HEAD.size : _HEAD.size + size])
        del packed[: _HEAD.size + size]
        if content:
            yield stream, content


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
    streams.settimeout(_DRAIN_SECONDS)
    with contextlib.suppress(OSError):
        while len(said) < CHUNK and (data := streams.recv(CHUNK)):
            said += data
    text = bytes(said) if terminal else b"".join(content for _, content in unpacked(said))
    return text.decode(errors="replace").strip()


def _send(members: set[processes.Identity], number: int) -> None:
    for each in members:
        with contextlib.suppress(PermissionError):
            processes.send(each, number)
