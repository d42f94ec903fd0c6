"""A `chronos_cli serve` on a node, over one channel of its connection: many requests at once, with deadlines."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import paramiko

from cumulus.chronos.contract.session import VERSION, request_line
from cumulus.clock import Clock

MOST_LINE = 64 * 2**20


class Ended(Exception):
    """The server is gone, and this request has no answer."""


class Late(Exception):
    """The deadline passed."""


@dataclass
class _Waiter:
    sent: datetime
    answered: threading.Event = field(default_factory=threading.Event)
    line: str | None = None
    received: datetime | None = None


class LeaseServerSession:
    """`channel` is one in which the server was just started. Safe for use by several threads."""

    def __init__(self, channel: paramiko.Channel, clock: Clock) -> None:
        self.channel = channel
        self._clock = clock
        self._mutex = threading.Lock()
        self._sending = threading.Lock()
        self._waiting: dict[int, _Waiter] = {}
        self._greeted = threading.Event()
        self._last_id = 0
        self.ended = False
        self.serves = False
        """Whether it greeted as a server does whose lines we know."""
        threading.Thread(target=self._listen, name="chronos-answers", daemon=True).start()

    def wait_for_greeting(self, deadline: float) -> bool:
        """Whether it serves; False where it ended or said something else. Raises `Late`."""
        if not self._greeted.wait(max(0.0, deadline - self._clock.monotonic())):
            raise Late
        return self.serves

    def call(self, words: Sequence[str], deadline: float) -> tuple[str, datetime, datetime]:
        """The answer's line, and when the request was sent and the answer received. Raises `Ended`, `Late`."""
        waiter = _Waiter(self._clock.now())
        with self._mutex:
            if self.ended:
                raise Ended
            self._last_id += 1
            id = self._last_id
            self._waiting[id] = waiter
        try:
            with self._sending:
                self.channel.sendall(request_line(id, words))
            if not waiter.answered.wait(max(0.0, deadline - self._clock.monotonic())):
                raise Late
        except (OSError, EOFError, paramiko.SSHException):
            # The listener hears of it too, but maybe later than the caller looks for another session.
            with self._mutex:
                self.ended = True
            raise Ended from None
        finally:
            with self._mutex:
                self._waiting.pop(id, None)
        if waiter.line is None or waiter.received is None:
            raise Ended
        return waiter.line, waiter.sent, waiter.received

    def close(self) -> None:
        """Requests that wait fail; the server there ends."""
        self.channel.close()

    def _listen(self) -> None:
        buffer = bytearray()
        try:
            while data := self.channel.recv(65536):
                buffer += data
                while (end := buffer.find(b"\n")) >= 0:
                    self._hear(buffer[:end].decode(errors="replace"))
                    del buffer[: end + 1]
                if len(buffer) > MOST_LINE:
                    break
        except (OSError, EOFError, paramiko.SSHException):
            pass
        finally:
            self.channel.close()
            with self._mutex:
                self.ended = True
                waiting = list(self._waiting.values())
            self._greeted.set()
            for waiter in waiting:
                waiter.answered.set()

    def _hear(self, line: str) -> None:
        said = _document(line)
        if said is None:
            # A log-in shell's greeting, or what a program there wrote to its standard error.
            return
        if not self._greeted.is_set():
            self.serves = said.get("serve") == VERSION
            self._greeted.set()
            if not self.serves:
                self.channel.close()
            return
        with self._mutex:
            waiter = self._waiting.get(said.get("id", 0))
        if waiter is not None:
            waiter.line, waiter.received = line, self._clock.now()
            waiter.answered.set()


def _document(line: str) -> Mapping[str, Any] | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
