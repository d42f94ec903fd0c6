"""Gives a state directory an id that no copy of it has, to tell apart two daemons with one store's id.

The file says which inode of which machine it is. A copy has another one, so that it gets a name of its own; moving the
directory within its disk changes nothing.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cumulus.errors import CumulusError
from cumulus.lib.files import replacing, write_durably

FILE = "place.json"


@dataclass(frozen=True, slots=True)
class StatePlace:
    id: str
    text: str
    """For people: user@host:directory."""
    root: str

    def recall(self, what: str) -> str:
        """What was noted here; "" where nothing was, and in a copy of the place."""
        with suppress(OSError):
            id, _, text = self._note(what).read_text().partition(" ")
            return text if id == self.id else ""
        return ""

    def note(self, what: str, text: str) -> None:
        """ "" forgets it. Where the disk is full, nothing was noted."""
        with suppress(OSError):
            if text and text != self.recall(what):
                write_durably(str(self._note(what)), f"{self.id} {text}".encode(), 0o644)
            elif not text:
                self._note(what).unlink(missing_ok=True)

    def _note(self, what: str) -> Path:
        return Path(self.root, f"{what}.here")


def find(root: str, machine: str | None = None) -> StatePlace:
    """The place that the directory `root` is, named when it is first asked for. Raises CumulusError."""
    machine = _machine() if machine is None else machine
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            id = _read(Path(root, FILE), machine) or _write(Path(root, FILE), machine)
        finally:
            os.close(directory)
    except OSError as error:
        raise CumulusError(f"{root} cannot be named: {error.strerror}") from error
    return StatePlace(id, f"{_user()}@{socket.gethostname()}:{os.path.dirname(os.path.abspath(root))}", root)


def _read(path: Path, machine: str) -> str:
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError), path.open() as file:
        said = json.load(file)
        if (said["inode"], said["machine"]) == (os.fstat(file.fileno()).st_ino, machine):
            return str(said["id"])
    return ""


def _write(path: Path, machine: str) -> str:
    id = str(uuid.uuid4())
    with replacing(str(path), 0o644) as file:
        file.write(json.dumps({"id": id, "inode": os.fstat(file.fileno()).st_ino, "machine": machine}).encode())
    return id


def _machine() -> str:
    with suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return ""


def _user() -> str:
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return str(os.getuid())
