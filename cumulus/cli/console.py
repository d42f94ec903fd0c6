"""The terminal of a job's own program, joined to the one here, until the job is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cumulus.cli import attached, context, joined, terminal
from cumulus.cli.progress import Progress
from cumulus.client.http.errors import ServerUnavailable
from cumulus.errors import NotFound, NotRunning
from cumulus.resources.key import Document, Key
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Client
    from cumulus.client.programs import RemoteProgram

_PAUSE, _LOOK = 0.25, 5.0
"""Seconds between two tries to join it, and between two questions why it waits."""
_AWAY = 60.0
"""How long a server may be away: then the program has its SIGHUP."""


def attach(key: Key, uid: str) -> int:
    """The exit code of its program, or one that says how else the job ended; 0 where who types has detached."""
    try:
        with context.client() as client:
            return _Console(client, key, uid).run()
    except KeyboardInterrupt:
        return attached.interrupted(key, uid)


class _Console:
    def __init__(self, client: Client, key: Key, uid: str) -> None:
        self._client = client
        self._key = key
        self._uid = uid
        self._title = f"gpujob/{key.name}"
        self._joined = False

    def run(self) -> int:
        keys = joined.DetachKeys()
        while (program := self._program()) is not None:
            self._joined = True
            try:
                joined.join(program, stdin=True, tty=True, typed=keys)
            except ServerUnavailable as error:
                terminal.note(f"{error}; joining it again.")
            finally:
                program.close()
            if keys.seen:
                terminal.note(
                    f"Detached: {self._title} goes on. Come back: cumulus attach {attached.named(self._key)}."
                )
                return 0
        if not self._joined:
            # It was over too soon: what it wrote is in its log.
            return attached.attach(self._key, self._uid)
        code, line = attached.outcome(self._job())
        if line:
            terminal.note(f"{self._title}: {line}")
        return code

    def _program(self) -> RemoteProgram | None:
        """Its terminal, once its program runs; None where the job is over."""
        progress, asked, away = Progress(), time.monotonic() + 1.0 - _LOOK, 0.0
        try:
            while True:
                try:
                    return self._client.attach(self._key, stdin=True)
                except NotRunning:
                    away = 0.0
                    if BY_NAME[self._key.kind].over(self._job()):
                        return None
                except ServerUnavailable:
                    away = away or time.monotonic()
                    if time.monotonic() - away > _AWAY:
                        raise
                if not away and not self._joined and time.monotonic() >= asked + _LOOK:
                    asked = time.monotonic()
                    progress.say(attached.waiting(self._client.why(self._key).lines))
                time.sleep(_PAUSE)
        finally:
            progress.end()

    def _job(self) -> Document:
        """Raises NotFound where it was deleted."""
        job = self._client.get(self._key)
        if job["metadata"]["uid"] != self._uid:
            raise NotFound(f"{self._title} was deleted")
        return job
