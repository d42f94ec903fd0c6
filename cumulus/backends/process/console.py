"""The terminal of a command that has one: who is attached to it, what they type, and what they see. Used by the
supervisor only.

What is shown while nobody is attached is kept, up to a screen or two, for who comes next. Where nobody is, the command
gets SIGHUP after a minute, as when a line is cut; not so where the last one left by the keys for it. Standard library
only.
"""

from __future__ import annotations

import _socket
import contextlib
import json
import os
import select
import time
from signal import SIGCONT, SIGHUP

from cumulus.lib import terminals
from cumulus.lib.execution import ALONE_SECONDS, DETACH

_MISSED = 2**16
"""Bytes that are kept for who comes next."""
_FULL = 2**18
"""Bytes that wait for one who is attached before the command has to wait too."""
_TYPED = 2**14
_CHUNK = 2**15
_LAST_SECONDS = 2.0


class _Client:
    def __init__(self, connection: _socket.socket, keyboard: int, screen: int) -> None:
        self.connection = connection
        self.keyboard = keyboard
        """-1 for one who only looks, or has typed all."""
        self.screen = screen
        self.shown = bytearray()
        """What it is yet to be shown."""
        self.held = b""
        """The first of the keys that detach, if it was typed last."""


class Console:
    """`terminal` is the near end, which does not block; `leader` leads the session of the command."""

    def __init__(self, terminal: int, leader: int) -> None:
        self._terminal = terminal
        self._leader = leader
        self._clients: list[_Client] = []
        self._missed = bytearray()
        self._typed = bytearray()
        self._alone_since: float | None = time.monotonic()
        self._poll: select.poll | None = None
        self._open = True

    def watch(self, poll: select.poll) -> None:
        """The terminal is registered there already."""
        self._poll = poll

    def join(self, connection: _socket.socket, keyboard: int, screen: int) -> None:
        """Attach one more: what they type comes from `keyboard` (-1: nothing), what they see goes to `screen`."""
        assert self._poll is not None
        client = _Client(connection, keyboard, screen)
        for descriptor in (keyboard, screen):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)
        self._poll.register(connection.fileno(), select.POLLIN)
        if keyboard >= 0:
            self._poll.register(keyboard, select.POLLIN)
        self._alone_since = None
        self._clients.append(client)
        missed, self._missed = self._missed, bytearray()
        self._show(client, bytes(missed))

    def handle(self, descriptor: int) -> bool:
        """Something came on the descriptor, or there is room; False where that is nobody's here."""
        for client in self._clients:
            if descriptor == client.connection.fileno():
                self._hear(client)
            elif descriptor == client.keyboard:
                self._read(client)
            elif descriptor == client.screen:
                self._show(client, b"")
            else:
                continue
            return True
        return False

    def show(self, data: bytes) -> None:
        """What the command wrote."""
        for client in list(self._clients):
            self._show(client, data)
        if not self._clients:
            self._missed += data
            del self._missed[:-_MISSED]

    def type_on(self) -> None:
        """There is room in the terminal for more of what was typed."""
        with contextlib.suppress(OSError):
            del self._typed[: os.write(self._terminal, self._typed)]
        self._listen()

    def look(self, now: float) -> None:
        """Hang up where nobody was attached for too long."""
        if self._alone_since is None or now < self._alone_since + ALONE_SECONDS:
            return
        self._alone_since = None
        groups = {self._leader}
        with contextlib.suppress(OSError):
            groups.add(os.tcgetpgrp(self._terminal))
        for group in groups - {0}:
            for number in (SIGHUP, SIGCONT):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, number)

    @property
    def next_look(self) -> float | None:
        return None if self._alone_since is None else self._alone_since + ALONE_SECONDS

    def closed(self) -> None:
        """The terminal has no other end any more."""
        self._open = False

    def finish(self, code: int | None) -> None:
        """The command has ended so: let all who are attached see the rest, and tell them."""
        self._alone_since = None
        until = time.monotonic() + _LAST_SECONDS
        for client in list(self._clients):
            while client in self._clients and client.shown and (left := until - time.monotonic()) > 0:
                poll = select.poll()
                poll.register(client.screen, select.POLLOUT)
                poll.poll(left * 1000)
                self._show(client, b"")
            self._let_go(client, code)

    def _show(self, client: _Client, data: bytes) -> None:
        assert self._poll is not None
        before = bool(client.shown)
        client.shown += data
        try:
            while client.shown:
                del client.shown[: os.write(client.screen, client.shown[:_CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self._leave(client)
            return
        if client.shown and not before:
            self._poll.register(client.screen, select.POLLOUT)
        elif before and not client.shown:
            self._poll.unregister(client.screen)
        self._listen()

    def _hear(self, client: _Client) -> None:
        """Another size; or the end of the connection."""
        try:
            said = client.connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._leave(client)
            return
        with contextlib.suppress(ValueError, TypeError):
            columns, rows = json.loads(said)
            terminals.set_size(self._terminal, int(columns), int(rows))

    def _read(self, client: _Client) -> None:
        try:
            data = os.read(client.keyboard, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._no_keyboard(client)
            return
        data, client.held = client.held + data, b""
        typed, keys, _ = data.partition(DETACH)
        if not keys and typed.endswith(DETACH[:1]):
            typed, client.held = typed[:-1], DETACH[:1]
        self._typed += typed
        if keys:
            # On purpose: it goes on for as long as it likes.
            self._let_go(client, 0)
        self.type_on()

    def _leave(self, client: _Client) -> None:
        """One who is attached has gone without a word."""
        self._let_go(client, None)
        if not self._clients:
            self._alone_since = time.monotonic()

    def _let_go(self, client: _Client, code: int | None) -> None:
        assert self._poll is not None
        self._clients.remove(client)
        self._no_keyboard(client)
        if client.shown:
            self._poll.unregister(client.screen)
        self._poll.unregister(client.connection.fileno())
        if code is not None:
            with contextlib.suppress(OSError):
                client.connection.send(json.dumps([code, ""]).encode())
        os.close(client.screen)
        client.connection.close()
        self._listen()

    def _no_keyboard(self, client: _Client) -> None:
        assert self._poll is not None
        if client.keyboard >= 0:
            self._poll.unregister(client.keyboard)
            os.close(client.keyboard)
            client.keyboard = -1

    def _listen(self) -> None:
        """What of the terminal and of the keyboards is to be waited for now."""
        if self._poll is None or not self._open:
            return
        full = any(len(client.shown) > _FULL for client in self._clients)
        self._poll.modify(
            self._terminal, (0 if full else select.POLLIN) | (select.POLLOUT if self._typed else 0)
        )  # fmt: skip
        for client in self._clients:
            if client.keyboard >= 0:
                self._poll.modify(client.keyboard, 0 if len(self._typed) > _TYPED else select.POLLIN)
