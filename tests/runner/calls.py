"""Makes the directory of a call, runs the runner in it as a node does, and reads what came of it."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from cumulus.calls import envelope
from cumulus.calls.envelope import Envelope
from cumulus.calls.outcome import OF_RUNNER, Outcome, verify
from cumulus.calls.session import SessionConnection, SessionEnded
from cumulus.runner.build import ensure_runner
from tests.waiting import PATIENCE, eventually

KEY = bytes(range(envelope.KEY_BYTES))
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Keeps the names of files, as a client does: cloudpickle leaves them out."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, types.CodeType):
            return super().reducer_override(value)
        make, given = self.dispatch_table[types.CodeType](value)
        return make, tuple(value.co_filename if part == "<dynamic-code>" else part for part in given)


def payload_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
    return _payload((function, args, kwargs))


def payload_with_large(large: list[tuple[str, list[int | str]]], function: Callable[..., Any], *args: Any) -> bytes:
    """`large`: see `cumulus.calls.envelope`."""
    return _payload((function, args, {}, large))


def _payload(call: tuple[Any, ...]) -> bytes:
    made = io.BytesIO()
    Pickler(made, protocol=5).dump(call)
    return envelope.payload_head(KEY) + made.getvalue()


def zip_of(files: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


@dataclass(frozen=True)
class Ran:
    directory: Path
    digest: str
    code: int
    out: str
    err: str

    @property
    def outcome(self) -> Outcome:
        found = Outcome.read((self.directory / envelope.OUTCOME).read_bytes(), OF_RUNNER)
        content = self.result
        assert (hashlib.sha256(content).hexdigest() if content else "", len(content)) == (
            found.result,
            found.result_size,
        )
        assert verify(KEY, self.digest, found) == bool(found.result)
        return found

    @property
    def result(self) -> bytes:
        path = self.directory / envelope.RESULT
        return path.read_bytes() if path.exists() else b""

    @property
    def value(self) -> Any:
        assert self.outcome.result, self.outcome
        return pickle.loads(self.result)


def prepare(
    directory: Path, payload: bytes, *, python: str = HERE, archive: bytes | None = None, session: bool = False
) -> list[str]:
    """The command's arguments after the interpreter."""
    directory.mkdir(mode=0o700)
    digest = hashlib.sha256(payload).hexdigest()
    made = Envelope(python, digest, session, "alice", "fit", 1)
    (directory / envelope.CALL).write_bytes(made.to_json())
    (directory / envelope.PAYLOAD).write_bytes(payload)
    if archive is not None:
        (directory / envelope.ARCHIVE).write_bytes(archive)
    return [ensure_runner(str(directory.parent)), str(directory)]


def connected(connect: Callable[[], SessionConnection]) -> SessionConnection:
    """To a session, once it listens."""

    def listens() -> SessionConnection | None:
        try:
            return connect()
        except SessionEnded:
            return None

    session: SessionConnection = eventually(listens)
    return session


def run(
    directory: Path, payload: bytes, *, python: str = HERE, interpreter: str = sys.executable,
    archive: bytes | None = None, environment: Mapping[str, str] | None = None,
) -> Ran:  # fmt: skip
    arguments = prepare(directory, payload, python=python, archive=archive)
    done = subprocess.run(
        [interpreter, *arguments], cwd=directory.parent, env={"PATH": os.defpath, **(environment or {})},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
    )  # fmt: skip
    return Ran(directory, hashlib.sha256(payload).hexdigest(), done.returncode, done.stdout, done.stderr)
