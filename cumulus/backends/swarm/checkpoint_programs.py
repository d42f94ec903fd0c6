"""The programs of a node that copy, fetch and read checkpoints: `chronos_cli checkpoints`, through a shell there.

They begin as root and become whoever the files belong to, so what a container wrote is opened as its own user alone.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from cumulus.backends.swarm.shells import Feeds, NodeShell, StreamingShell
from cumulus.errors import BackendError, BackendRefused, ChronosError
from cumulus.lib.printable import one_line
from cumulus.lib.unix_user import UnixUser
from cumulus.uploader.config import Config
from cumulus.uploader.owner import OWNER


class PlaceAway(BackendError):
    """The place of the checkpoints does not answer, or something else that may pass by itself."""


class NotWhole(BackendError):
    """Where it was to come from, it is damaged, or there is none."""


class CheckpointPrograms:
    """`chronos`: the shell words that run chronos_cli on the node. Every method raises `BackendRefused` where the node
    can't do it, `BackendError` where it does not answer."""

    def __init__(self, shell: NodeShell, chronos: str) -> None:
        self._shell = shell
        self._chronos = chronos

    def ask(self, config: Config, *words: str) -> dict[str, Any]:
        """What the uploader answers. Raises `PlaceAway` too."""
        return _answered(self._fed(["uploader", *words], iter([config.encode()])))

    def prefetch(self, config: Config, path: str, since: int, pulse: Iterator[bytes]) -> dict[str, Any]:
        """`ask` to restore, beside what runs on the node: given up where `pulse` ends or raises."""

        def given() -> Iterator[bytes]:
            yield config.encode()
            yield from pulse

        return _answered(self._fed(["uploader", "prefetch", path, str(since)], given()))

    def read(self, user: UnixUser | None, *words: str) -> Generator[bytes]:
        """What the program for the files on the node writes. `user`: whose they are, None where only they tell."""
        if not isinstance(self._shell, StreamingShell):
            raise BackendError("nothing can be read through this shell")
        try:
            yield from self._shell.read(self._command(["files", *words]), whose(user))
        except ChronosError as error:
            raise BackendError(str(error), hint=error.hint) from None

    def receive(
        self, user: UnixUser | None, path: str, chunks: Iterator[bytes], *, adopt: bool = False
    ) -> dict[str, Any]:  # fmt: skip
        """Put what `read` gave of `send` on another node there. `adopt`: it is another job's. Raises `NotWhole` too."""

        def given() -> Iterator[bytes]:
            yield whose(user)
            yield from chunks

        answer = self._fed(["files", "adopt" if adopt else "receive", path], given())
        if "error" in answer:
            raise (NotWhole if answer.get("sent") else BackendError)(one_line(str(answer["error"])))
        return answer

    def _fed(self, words: Sequence[str], chunks: Iterator[bytes]) -> dict[str, Any]:
        if not isinstance(self._shell, Feeds):
            raise BackendError("nothing can be sent through this shell")
        try:
            code, output, errors = self._shell.feed(self._command(words), chunks)
        except ChronosError as error:
            raise BackendError(str(error), hint=error.hint) from None
        try:
            answer = json.loads(output)
            if isinstance(answer, dict):
                return answer
        except ValueError:
            pass
        said = one_line((errors.strip().splitlines() or [f"exit code {code}"])[-1])[:200]
        raise BackendRefused(
            f"this node copies no checkpoints: {said}",
            hint="install this version of Chronos: cumulus node setup NODE. It takes root, or sudo for all commands",
        )

    def _command(self, words: Sequence[str]) -> str:
        return f"{self._chronos} checkpoints {shlex.join(words)}"


def _answered(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" not in answer:
        return answer
    kind = PlaceAway if answer.get("again") else BackendRefused
    raise kind(one_line(str(answer["error"])), hint=one_line(str(answer.get("hint") or "")) or None)


def whose(user: UnixUser | None) -> bytes:
    """The line with which the program for files begins."""
    return json.dumps(OWNER if user is None else user).encode() + b"\n"
