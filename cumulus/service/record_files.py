"""Small JSON documents in a directory that its owner alone can read, one a file: ID.json.

For what opens the API. That it is no object of the store keeps it out of lists, watches and backups; that each is a
file of its own lets it end at once, in every process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cumulus.errors import CumulusError
from cumulus.lib.files import write_durably


class RecordFiles:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def file(self, id: str) -> Path:
        """`id` becomes a part of the path: it must have been checked."""
        return self.directory / f"{id}.json"

    def ids(self) -> list[str]:
        """In no particular order. Raises CumulusError where the directory cannot be read."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CumulusError(f"{self.directory} cannot be read: {error.strerror}") from None
        # One that begins with a dot is being written.
        return [name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."]

    def read(self, id: str) -> Any:
        """Raises OSError, and ValueError where it is damaged."""
        return json.loads(self.file(id).read_bytes())

    def write(self, id: str, document: Any, *, anew: bool = True) -> None:
        """Durably. `anew`: also where there is one already. Raises CumulusError."""
        try:
            self.make()
            if anew or not self.file(id).exists():
                write_durably(str(self.file(id)), json.dumps(document).encode())
        except OSError as error:
            raise CumulusError(f"{self.directory} cannot be written: {error.strerror}") from None

    def remove(self, id: str) -> None:
        """What is not there is gone already."""
        self.file(id).unlink(missing_ok=True)

    def make(self) -> None:
        """Make the directory. Raises OSError."""
        for each in (self.directory.parent, self.directory):
            each.mkdir(mode=0o700, exist_ok=True)
