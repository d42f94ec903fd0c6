"""Finds out on which nodes this directory is the same: a word is left in it, and the server asks the nodes for that."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cumulus.answers.nodes import DirectoryOnNode
    from cumulus.client.base import Client


def found(client: Client, directory: str, namespace: str) -> Sequence[DirectoryOnNode]:
    """What each node says that could run a program from this directory; nothing where there is none to be asked, or
    where nothing can be left in the directory."""
    if not client.same_directory(directory, "", namespace=namespace):
        return ()
    word = f".cumulus-{os.urandom(16).hex()}"
    path = os.path.join(directory, word)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(word)
    except OSError:
        return ()
    try:
        return client.same_directory(directory, word, namespace=namespace)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
