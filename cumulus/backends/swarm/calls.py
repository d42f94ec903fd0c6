"""Calls in containers: their directories go to the node's disk before the start, and come back from it after the end.

The node's engine mounts such a directory into the container. On the node only root comes near it; inside, whoever the
container runs as may write there. It is carried through a shell on the node, so any node that is reached over SSH will
do, and any image with a shell and that Python. A call without an image is a program of its node, by a Python there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

from cumulus.backends.base import BlobReader, CallResult, Workload
from cumulus.backends.rundir import calls
from cumulus.backends.swarm import programs
from cumulus.backends.swarm.node_engine import NodeEngine
from cumulus.backends.swarm.records import Record
from cumulus.calls import session
from cumulus.calls.envelope import OUTCOME, RELAY, RUNNER
from cumulus.calls.outcome import NOT_LOADED, Outcome
from cumulus.errors import BackendError
from cumulus.runner.build import archive

TARGET = "/run/cumulus/call"
"""Where a container sees the directory; a program of the node has it at `programs.CALL`."""

_MADE = "call"
_BLOCK = tarfile.BLOCKSIZE


@runtime_checkable
class CarriesCalls(Protocol):
    """A `NodeEngine` that brings directories to its node's disk. Every method raises `BackendError`."""

    def put_call(self, name: str, archive: Iterator[bytes]) -> str:
        """Unpack a tar archive in a new directory, in place of an earlier one of that name; its path there."""
        ...

    def call_file(self, name: str, file: str) -> tuple[int, Iterator[bytes]] | None:
        """The size and the content of a file there; None where there is none, or a link in its place."""
        ...

    def remove_call(self, name: str) -> None:
        """Delete the directory. One that is not there is no error."""
        ...


class NodeCalls:
    """`engines` gives a node's own engine by the node's name."""

    def __init__(self, engines: Callable[[str], NodeEngine | None], blobs: BlobReader | None) -> None:
        self._engines = engines
        self._blobs = blobs

    def bring(self, record: Record, workload: Workload) -> tuple[Workload, dict[str, str]]:
        """Bring what the call is made of to its node: the workload with the command that runs it, and where its
        container is to see which directory there: target -> source. The container must not run yet.

        Raises `BackendError`, `BackendRefused` and what the store of blobs raises."""
        assert workload.call is not None
        engine, name = self._engine(record), str(record.start["call"]["directory"])
        made = os.path.join(record.directory, _MADE)
        try:
            shutil.rmtree(made, ignore_errors=True)
            calls.make(made, workload, workload.call, self._blobs)
            with open(os.path.join(made, RUNNER), "wb") as file:
                file.write(archive())
            place = engine.put_call(name, _tar(made))
        except OSError as error:
            raise BackendError(f"a call cannot be prepared for its node: {error.strerror}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        program = programs.is_program(workload)
        command = _command(workload.call.python, workload.call.interpreter, program=program)
        return replace(workload, command=command, args=()), {_target(program=program): place}

    def result(self, record: Record) -> CallResult | None:
        """See `Backend.result`. The run has ended."""
        engine, name = self._engine(record), str(record.start["call"]["directory"])
        return calls.left(lambda file: engine.call_file(name, file))

    def remove(self, record: Record) -> None:
        """Delete what is left on the node, where that answers."""
        if record.start.get("call"):
            with contextlib.suppress(BackendError):
                self._engine(record).remove_call(str(record.start["call"]["directory"]))

    def _engine(self, record: Record) -> CarriesCalls:
        node = record.start["node"]
        engine = self._engines(node)
        if not isinstance(engine, CarriesCalls):
            raise BackendError(
                f"{node} has no SSH address, over which calls come to a node", hint=f"set spec.ssh of gpunode/{node}"
            )
        return engine


def relay(record: Record) -> tuple[str, ...]:
    """What connects to the session that the run is, beside it."""
    call, program = record.start["call"], record.is_program
    return _command(call["python"], call["interpreter"], RELAY, program=program)


def _target(*, program: bool) -> str:
    return programs.CALL if program else TARGET


def _tar(directory: str) -> Iterator[bytes]:
    """An archive of the files there. Whoever the container runs as can read them."""
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = os.fstat(file.fileno()).st_size, 0o644
            yield entry.tobuf(tarfile.GNU_FORMAT)
            while chunk := file.read(session.CHUNK):
                yield chunk
            yield b"\0" * (-entry.size % _BLOCK)
    yield b"\0" * 2 * _BLOCK


def _command(python: str, hint: str, *more: str, program: bool) -> tuple[str, ...]:
    """A shell that finds the Python in the image, or on the node of a program, and runs the runner by it. Where there
    is none, it answers in the runner's place."""
    where, instead = ("on this node", "a node") if program else ("in this image", "an image")
    text = f"there is no Python {python} {where}, which made the call; use {instead} that has it"
    target = _target(program=program)
    answer = Outcome(NOT_LOADED, text=text).to_json().decode()
    script = (
        'version=$1; hint=$2; answer=$3; text=$4; shift 4; for python in "$hint" "python$version" python3 python; do '
        'found=$("$python" -I -S -c \'import sys; print("%d.%d" % sys.version_info[:2])\' 2>/dev/null) '
        f'&& [ "$found" = "$version" ] && exec "$python" {target}/{RUNNER} {target} "$@"; done; '
        f'echo "$text" >&2; printf %s "$answer" > {target}/{OUTCOME}; exit 127'
    )
    return ("/bin/sh", "-c", script, "sh", python, hint or f"python{python}", answer, text, *more)
