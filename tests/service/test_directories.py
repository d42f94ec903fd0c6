"""On which nodes a directory is the same: who is asked what, and as whom."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cumulus.answers.nodes import DirectoryOnNode
from cumulus.cli import same_directory
from cumulus.errors import Forbidden, UsageError
from cumulus.resources.key import Document
from cumulus.service.access.access import Access
from cumulus.service.directories import Directories
from cumulus.service.identity import Identity
from cumulus.store.memory import MemoryStore

ANN = Identity("ann", 1001)
WORD = f".cumulus-{'0' * 32}"


def node(name: str, **host_jobs: Any) -> Document:
    status = {"hostJobs": host_jobs} if host_jobs else {}
    return {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": name}, "status": status}


class Nodes:
    """What each node says."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        shared = ["/home", "/data"]
        for made in (
            node("a", offered=True),
            node("b", offered=True, shared=shared),
            node("c", offered=False),
            node("d"),
        ):
            self.store.create(made)
        self.asked: list[tuple[str, str, int, str, str]] = []

    def say(self, node: Document, user: str, uid: int, directory: str, word: str) -> str:
        self.asked.append((node["metadata"]["name"], user, uid, directory, word))
        return "" if os.path.exists(os.path.join(directory, word)) else "another\x1b[31m directory"

    def directories(self, identity: Identity = ANN) -> Directories:
        allowed = SimpleNamespace(check=lambda who, *_: None)
        return Directories(allowed, self.store, self.say)  # type: ignore[arg-type]


def test_only_nodes_that_would_run_it_are_asked_as_who_asks() -> None:
    nodes = Nodes()
    found = nodes.directories().same_on(ANN, "/nowhere/x", WORD, namespace="default")
    assert [(each.node, "\x1b" in each.problem) for each in found] == [("a", False), ("b", False)]
    assert sorted(nodes.asked) == [(name, "ann", 1001, "/nowhere/x", WORD) for name in "ab"]


def test_a_shared_directory_and_a_missing_word_ask_nobody() -> None:
    nodes = Nodes()
    found = nodes.directories().same_on(ANN, "/home/ann", "", namespace="default")
    assert [each.node for each in found] == ["a"]
    assert nodes.directories().same_on(ANN._replace(uid=None), "/x", WORD, namespace="default") == []
    assert not nodes.asked


@pytest.mark.parametrize(
    ("directory", "word"),
    [("x", WORD), ("/x\0", WORD), ("/" * 5000, WORD), ("/x", "../../etc/passwd"), ("/x", WORD[:-1])],
)
def test_what_is_no_directory_or_no_word_is_refused(directory: str, word: str) -> None:
    nodes = Nodes()
    with pytest.raises(UsageError):
        nodes.directories().same_on(ANN, directory, word, namespace="default")
    assert not nodes.asked


def test_whoever_may_make_no_job_there_asks_no_node() -> None:
    nodes = Nodes()
    access = Access(lambda: nodes.store, owner=0)
    with pytest.raises(Forbidden):
        Directories(access, nodes.store, nodes.say).same_on(ANN, "/x", WORD, namespace="elsewhere")


class FakeClient:
    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.modes: list[int] = []

    def same_directory(self, directory: str, word: str, *, namespace: str) -> Sequence[DirectoryOnNode]:
        if word:
            self.modes.append(stat.S_IMODE(os.stat(os.path.join(directory, word)).st_mode))
        return self._nodes.directories().same_on(ANN, directory, word, namespace=namespace)


def test_the_client_leaves_a_word_and_takes_it_away(tmp_path: Path) -> None:
    client = FakeClient(Nodes())
    found = same_directory.found(client, str(tmp_path), "default")  # type: ignore[arg-type]
    assert [(each.node, each.problem) for each in found] == [("a", ""), ("b", "")]
    assert client.modes == [0o600]
    assert not os.listdir(tmp_path)
    gone = tmp_path / "gone"
    assert same_directory.found(client, str(gone), "default") == ()  # type: ignore[arg-type]
