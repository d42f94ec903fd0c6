"""Programs that are started beside a run's command, as its submitter, in its cgroup and environment. Used by the
supervisor only.

A connection to the socket in the run's directory is one program:

    daemon -> supervisor   {"command": […], "terminal": TERM or ""}, and with it its streams: three, or one terminal
    supervisor -> daemon   [exit code, message], once it has ended

or, with {"attach": true}, one who joins the terminal of the command: their keyboard and their screen come with it, and
[columns, rows] after it; or, with {"feed": true}, one who gives the command its input: see `feeding`.

Where the daemon closes the connection before that, or dies, the program gets SIGHUP, and SIGKILL a little later. With
the program whatever it started ends, and with the command all of them. Standard library only.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import errno
import json
import os
import select
import time
from signal import SIGCONT, SIGHUP, SIGKILL
from typing import Any, NoReturn

from cumulus.backends.process import launch, layout, process_tree
from cumulus.backends.process.console import Console
from cumulus.backends.process.feeding import ProcessInput
from cumulus.backends.variables import EXEC
from cumulus.lib import cgroup, processes, terminals
from cumulus.lib.unix_user import UnixUser

_AT_ONCE = 64
_HANGUP_SECONDS = 5.0
"""Between SIGHUP and SIGKILL."""
_STREAMS = 3
_NOT_STARTED, _NOT_FOUND = 126, 127
"""Exit codes, as a shell has them."""


class _Program:
    def __init__(self, connection: _socket.socket) -> None:
        self.connection = connection
        self.mark = os.urandom(8).hex()
        self.pid = 0
        """Also of its session; 0 before it was started."""
        self.kill_at: float | None = None
        self.feeds = False
        """It is no program: whoever has the connection feeds the command."""

    def tell(self, code: int, message: str = "") -> None:
        with contextlib.suppress(OSError):
            self.connection.send(json.dumps([code, message]).encode())

    def members(self) -> list[int]:
        """It and what it started, as far as that is below this process."""
        entry = f"{EXEC}={self.mark}".encode()
        found = []
        for pid in processes.descendants(os.getpid()) if self.pid else ():
            process = processes.read(pid)
            if process is not None and (process.session == self.pid or entry in processes.environment(pid)):
                found.append(pid)
        return found


class Execs:
    """Listens from the start of the command until `close`. `environment`, `enclosure`, `console` and `given`, its
    input, are the command's."""

    def __init__(
        self, spec: dict[str, Any], environment: dict[str, str], enclosure: str, console: Console | None = None,
        given: ProcessInput | None = None,
    ) -> None:  # fmt: skip
        self._spec = spec
        self._environment = environment
        self._enclosure = enclosure
        self.console = console
        self._given = given
        self._programs: dict[int, _Program] = {}
        """By the descriptor of their connections."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(layout.EXECS)
        # In the run's directory, which is the working one: nobody but the daemon's own user comes that far.
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        self._listener.bind(layout.EXECS)
        self._listener.listen(_AT_ONCE)
        self._listener.setblocking(False)
        self._poll: select.poll | None = None

    def watch(self, poll: select.poll) -> None:
        """Have the command's loop call `handle` for what happens here."""
        self._poll = poll
        if self.console is not None:
            self.console.watch(poll)
        poll.register(self._listener.fileno(), select.POLLIN)

    def handle(self, descriptor: int) -> bool:
        """Something came on the descriptor; False where that is none of these."""
        if descriptor == self._listener.fileno():
            self._accept()
        elif (program := self._programs.get(descriptor)) is None:
            return self.console is not None and self.console.handle(descriptor)
        elif program.feeds and self._given is not None:
            if self._given.take(program.connection):
                program.tell(0)
            self._forget(program)
        elif program.pid:
            # The daemon says nothing more: it has let go of the program.
            self._hang_up(program)
        else:
            self._begin(program)
        return True

    def reaped(self, pid: int, status: int) -> None:
        """A child has ended."""
        program = next((p for p in self._programs.values() if p.pid == pid), None)
        if program is None:
            return
        code = os.waitstatus_to_exitcode(status)
        program.tell(code if code >= 0 else 128 - code)
        process_tree.send(program.members(), SIGKILL)
        self._forget(program)

    def look(self, now: float) -> None:
        """Kill what was hung up and has not ended in its time."""
        if self.console is not None:
            self.console.look(now)
        for program in list(self._programs.values()):
            if program.kill_at is not None and now >= program.kill_at:
                process_tree.send(program.members(), SIGKILL)
                program.kill_at = now + _HANGUP_SECONDS

    @property
    def next_look(self) -> float | None:
        times = [p.kill_at for p in self._programs.values()]
        times += [self.console.next_look] if self.console is not None else []
        return min((at for at in times if at is not None), default=None)

    def hang_up(self) -> None:
        """The command is to end: tell the programs beside it."""
        for program in self._programs.values():
            process_tree.send(program.members(), SIGHUP)

    def members(self) -> set[int]:
        """The processes that are none of the command's own."""
        return {pid for program in self._programs.values() for pid in program.members()}

    def close(self) -> None:
        """Take no more of them."""
        if self._poll is not None:
            self._poll.unregister(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(layout.EXECS)

    def _accept(self) -> None:
        assert self._poll is not None
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
        connection.setblocking(False)
        program = _Program(connection)
        if len(self._programs) >= _AT_ONCE:
            program.tell(_NOT_STARTED, f"{_AT_ONCE} programs run beside the job already")
            connection.close()
            return
        self._programs[descriptor] = program
        self._poll.register(descriptor, select.POLLIN)

    def _forget(self, program: _Program) -> None:
        assert self._poll is not None
        descriptor = program.connection.fileno()
        if program.kill_at is None:
            self._poll.unregister(descriptor)
        del self._programs[descriptor]
        program.connection.close()

    def _hang_up(self, program: _Program) -> None:
        assert self._poll is not None
        self._poll.unregister(program.connection.fileno())
        program.kill_at = time.monotonic() + _HANGUP_SECONDS
        # The second for those that are stopped.
        for number in (SIGHUP, SIGCONT):
            process_tree.send(program.members(), number)

    def _begin(self, program: _Program) -> None:
        streams = array.array("i")
        try:
            room = _socket.CMSG_SPACE(_STREAMS * streams.itemsize)
            flags = _socket.MSG_CMSG_CLOEXEC
            data, carried, _, _ = program.connection.recvmsg(layout.MOST_ASKED, room, flags)
        except BlockingIOError:
            return
        except OSError:
            data, carried = b"", []
        for _, _, content in carried:
            streams.frombytes(content[: len(content) - len(content) % streams.itemsize])
        try:
            asked = json.loads(data or b"{}")
            if asked.get("attach") and len(streams) in (1, 2):
                self._join(program, streams)
                return
            if asked.get("feed"):
                self._feed(program)
                return
            if not data or len(streams) not in (1, _STREAMS):
                self._forget(program)
                return
            pid = os.fork()
            if pid == 0:
                self._run(program, asked, list(streams) * (1 if len(streams) == _STREAMS else _STREAMS))
            program.pid = pid
        except OSError as error:
            program.tell(_NOT_STARTED, f"it could not be started: {error.strerror}")
            self._forget(program)
        finally:
            for stream in streams:
                os.close(stream)

    def _feed(self, program: _Program) -> None:
        if self._given is None:
            program.tell(_NOT_STARTED, "the job waits for no input")
        elif self._given.give(program.connection):
            program.feeds = True
            return
        else:
            program.tell(_NOT_STARTED, "its input was given before")
        self._forget(program)

    def _join(self, program: _Program, streams: array.array[int]) -> None:
        """The screen, and before it the keyboard where there is one. They are the console's from here on."""
        if self.console is None:
            program.tell(_NOT_STARTED, "the job has no terminal")
            self._forget(program)
            return
        assert self._poll is not None
        descriptor = program.connection.fileno()
        self._poll.unregister(descriptor)
        del self._programs[descriptor]
        screen = streams.pop()
        keyboard = streams.pop() if streams else -1
        self.console.join(program.connection, keyboard, screen)

    def _run(self, program: _Program, asked: dict[str, Any], streams: list[int]) -> NoReturn:
        """In the child. Only ever leaves by exec or _exit."""
        try:
            os.setsid()
            if self._enclosure and not cgroup.enter(self._enclosure, os.getpid()):
                program.tell(_NOT_STARTED, "it cannot be put into the job's cgroup")
                os._exit(_NOT_STARTED)
            user = UnixUser.read(self._spec.get("user"))
            environment = {**self._environment, EXEC: program.mark}
            if asked["terminal"]:
                environment["TERM"] = asked["terminal"]
                terminals.take(streams[0], user)
            words = asked["command"]

            def failed(step: int, number: int) -> None:
                code = _NOT_FOUND if number == errno.ENOENT and step == launch.EXEC_STEP else _NOT_STARTED
                program.tell(code, launch.explain(step, number, words[0], self._spec["cwd"], environment))

            launch.become_program(
                self._spec, user, self._spec["cwd"], words, environment, (streams[0], streams[1], streams[2]),
                failed,
            )  # fmt: skip
        finally:
            os._exit(_NOT_STARTED)
