"""`cumulus cp`: files from and to a running job."""

from __future__ import annotations

import os
import posixpath
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

import typer

from cumulus.cli import archives, context, options, terminal, this_shell
from cumulus.cli.verbs.exec import Replica, job_key
from cumulus.client.base import Client
from cumulus.client.programs import Streams
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.execution import ExecRequest
from cumulus.resources.key import Key

_REMOTE = re.compile(r"((?:[a-z]+/)?[a-z0-9][a-z0-9.-]*):(.*)", re.DOTALL)
_NOT_FOUND = 127
_MOST_SAID = 2**16
"""Bytes of what tar says that are kept."""
_LONGEST = 300
_KILLED = 128
"""And more."""


class _Place(NamedTuple):
    """A path of a job; of this machine where `job` is ""."""

    job: str
    path: str


def cp(
    source: Annotated[str, typer.Argument(metavar="FROM", help="JOB:PATH, or a path here.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TO", help="A path here, or JOB:PATH.", show_default=False)],
    replica: Replica = 0,
    namespace: options.Namespace = "",
) -> None:
    """Copy a file or a directory from a running job, or to it.

    A path of the job is opened as its submitter, by tar on its node; one that is not absolute is seen from the job's
    directory. If TO is a directory, what is copied comes into it. From a job nothing is taken that would lie, or lead,
    outside of TO.

    \b
    Examples:
      cumulus cp train:checkpoints/step-100 .
      cumulus cp train:/var/log/out.txt out.txt
      cumulus cp config.yaml train:config.yaml
    """
    here, there = _place(source), _place(target)
    if bool(here.job) == bool(there.job):
        raise UsageError("one of the two is a path of a job, as JOB:PATH", hint="cumulus cp train:out.txt .")
    key = job_key(here.job or there.job, namespace)
    if not os.path.isabs((there if here.job else here).path):
        # It is told before anything comes.
        this_shell.directory()
    with context.client() as client:
        copy = _Copy(client, key, replica)
        if here.job:
            copy.fetch(here.path, Path(there.path))
        else:
            copy.send(Path(here.path), there.path)


def _place(word: str) -> _Place:
    """Of what a person wrote. A path with a slash or a dot first is never a job's."""
    found = _REMOTE.fullmatch(word)
    if found is None or os.path.exists(word):
        return _Place("", word)
    # As scp has it: nothing behind the colon is the directory in which one begins.
    return _Place(found[1], found[2] or ".")


class _Copy:
    def __init__(self, client: Client, key: Key, replica: int) -> None:
        self._client = client
        self._key = key
        self._replica = replica

    def fetch(self, path: str, target: Path) -> None:
        parent, base = posixpath.split(posixpath.normpath(path))
        if base in ("", ".."):
            parent, base = path, "."
        if target.is_dir():
            if base == ".":
                raise UsageError(f"{target} is there already", hint="name a directory that is not there yet")
            target = target / base
        elif not target.absolute().parent.is_dir():
            raise UsageError(f"there is no directory {target.parent}", hint="make it first")
        read, write = os.pipe()
        ended = threading.Event()
        with open(read, "rb") as archive, open(write, "wb", buffering=0) as coming:
            unpacking = _Thread(lambda: _unpacked(archive, base, target, ended))
            try:
                words = ["cf", "-", "-C", parent or ".", "--", base]
                self._tar(words, None, lambda data: _write_all(coming, data), ended.set)
            finally:
                coming.close()
                problem = unpacking.end()
        if problem is not None:
            raise problem

    def send(self, source: Path, path: str) -> None:
        if not os.path.lexists(source):
            raise UsageError(f"there is no {source}")
        name = source.absolute().name
        if self._run(("test", "-d", path), Streams(_nowhere, _nowhere)) != 0:
            path, name = posixpath.split(posixpath.normpath(path))
        read, write = os.pipe()
        with open(read, "rb", buffering=0) as given, open(write, "wb") as archive:
            packing = _Thread(lambda: _packed(source, name, archive))
            try:
                self._tar(["xof", "-", "-C", path or "."], given.fileno(), _nowhere)
            finally:
                given.close()
                problem = packing.end()
        if problem is not None and not isinstance(problem, BrokenPipeError):
            raise problem

    def _tar(
        self, words: list[str], stdin: int | None, stdout: Callable[[bytes], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`ended` is called where tar came to its end, whether or not it had something to say."""
        said = bytearray()

        def hear(data: bytes) -> None:
            # It is the job's, and may never stop.
            said.extend(data[: _MOST_SAID - len(said)])

        code = self._run(("tar", *words), Streams(stdout, hear, stdin))
        if code < _KILLED:
            ended()
        lines = said.decode(errors="replace").splitlines()
        if code == _NOT_FOUND:
            raise CumulusError("there is no tar where the job runs", hint="cumulus exec can read and write files")
        if code:
            raise CumulusError(
                f"tar ended with exit code {code}: {lines[0][:_LONGEST] if lines else 'it did not say why'}"
            )
        for line in lines:
            terminal.note(line[:_LONGEST])

    def _run(self, command: tuple[str, ...], streams: Streams) -> int:
        program = self._client.exec(self._key, self._replica, ExecRequest(command, stdin=streams.stdin is not None))
        try:
            return program.run(streams)
        finally:
            program.close()


class _Thread:
    """What does the other half of a copy."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> Exception | None:
        """Wait for it; what it raised."""
        self._thread.join()
        return self._problem

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._problem = error


def _unpacked(archive: BinaryIO, base: str, target: Path, ended: threading.Event) -> None:
    """Also where it fails, all that comes is read: who sends learns of it at the end."""
    try:
        archives.unpack(archive, base, target, ended.is_set)
    finally:
        while archive.read(2**20):
            pass


def _packed(source: Path, name: str, archive: BinaryIO) -> None:
    with archive:
        archives.pack(source, name, archive)


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def _nowhere(data: bytes) -> None:
    """What nobody asked for."""
