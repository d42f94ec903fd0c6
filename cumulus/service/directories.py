"""On which nodes a directory is the same as where a job is submitted: nodes are asked for a word that was left in it.

    client: leaves a word in its directory -> service: asks each node, as the client's user there -> client: removes it

The word is random, so that no other directory of that name has it.
"""

from __future__ import annotations

import os.path
import re
from concurrent.futures import ThreadPoolExecutor

from cumulus.answers.nodes import DirectoryOnNode
from cumulus.errors import UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kinds import gpunode
from cumulus.resources.query import Query
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.infrastructure import WordsOnNodes
from cumulus.store.base import Store

AT_ONCE = 16
"""Nodes that are asked at once."""
_WORD = re.compile(r"\.cumulus-[0-9a-f]{32}")
_LONGEST = 4096


class Directories:
    """`words` asks a node for the word."""

    def __init__(self, access: Access, store: Store, words: WordsOnNodes) -> None:
        self._access = access
        self._store = store
        self._words = words

    def same_on(self, identity: Identity, directory: str, word: str, *, namespace: str) -> list[DirectoryOnNode]:
        """Of each node that runs programs of its own disk, beside the daemon's machine, and of whose directories an
        administrator does not say so already: why the directory is not the one in which the identity left the file
        `word`, "" where it is. Without a word nobody is asked. Raises UsageError, Forbidden."""
        self._access.check(identity, "create", "gpujobs", namespace)
        if word and not _WORD.fullmatch(word):
            raise UsageError("that is no word that a client leaves in a directory")
        if not os.path.isabs(directory) or "\0" in directory or len(directory) > _LONGEST:
            raise UsageError("a directory is given by its whole path")
        uid = identity.uid
        if uid is None:
            return []
        nodes = [node for node in self._store.list(Query(gpunode.KIND.name)).items if _asked(node, directory)]
        if not word or not nodes:
            return [DirectoryOnNode(node["metadata"]["name"], "it was not asked") for node in nodes]

        def look(node: Document) -> DirectoryOnNode:
            said = self._words(node, identity.name, uid, directory, word)
            return DirectoryOnNode(node["metadata"]["name"], one_line(said))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(look, nodes))


def _asked(node: Document, directory: str) -> bool:
    found = lookup(node, "status.hostJobs") or {}
    shared = found.get("shared") or ()
    return bool(found.get("offered")) and not any(
        f"{directory}/".startswith(f"{place.rstrip('/')}/") for place in shared
    )
