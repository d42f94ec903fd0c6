"""`cumulus cluster image push`: an image from engine to engine, on the lab; and what a node may refuse, with fakes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.swarm import images
from cumulus.backends.swarm.engine import Engine, each
from cumulus.backends.swarm.images import Image
from cumulus.errors import BackendError, BackendRefused, NodeUnreachable
from cumulus.nodes.address import WorkerHost
from cumulus.nodes.connection import NodeConnection
from cumulus.nodes.host_keys import KnownHosts
from cumulus.nodes.workers import ConnectionShell
from tests.lab.lab import Lab
from tests.swarm.control import Control

NAME = "pushed:1"


@pytest.fixture
def control(swarm: Lab, tmp_path: Path) -> Iterator[Control]:
    """No daemon runs: an image may be brought before the first one. The manager alone has the image."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo("words")
        entry.size = 3 * 2**20
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    (tmp_path / "image.tar").write_bytes(content.getvalue())
    swarm.manager.docker("import", str(tmp_path / "image.tar"), NAME)
    yield Control(swarm, tmp_path)
    for node in swarm.nodes.values():
        for name in (NAME, "other:1"):
            if has(node, name):
                node.docker("rmi", name)


def has(node: Any, name: str = NAME) -> str:
    return str(node.docker("images", "--no-trunc", "-q", name))


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_an_image_is_brought_to_each_node_once(control: Control) -> None:
    lab = control.lab
    worker1, worker2 = lab.workers
    unknown = control.run("cluster", "image", "push", NAME, "--node", "moon")
    assert (unknown.returncode, "its nodes are manager, worker1, worker2" in unknown.stderr) == (2, True)

    hosts = control.home / "known_hosts"
    lines = hosts.read_text().splitlines(keepends=True)
    hosts.write_text("".join(line for line in lines if not line.startswith(f"{worker2.address} ")))
    half = control.run("cluster", "image", "push", NAME)
    assert half.returncode == 1
    assert half.stdout == f"worker1: loaded {NAME}\n"
    assert "error: worker2: " in half.stderr
    assert "ssh-keyscan" in half.stderr
    assert "manager: the image is from its engine" in half.stderr
    assert has(worker1) == has(lab.manager)
    assert not has(worker2)

    hosts.write_text("".join(lines))
    worker1.docker("tag", NAME, "other:1")
    worker1.docker("rmi", NAME)
    done = control.run("cluster", "image", "push", NAME, "--node", "worker1", "--node", "worker2")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"worker1: has {NAME} already", f"worker2: loaded {NAME}"]
    assert has(worker1) == has(worker2) == has(lab.manager)


class _CutOff(Engine):
    """Sends the first half of what it has."""

    def save_image(self, name: str) -> Iterator[bytes]:
        whole = b"".join(super().save_image(name))
        yield whole[: len(whole) // 2]
        raise BackendError("the engine was stopped")


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_an_image_that_is_cut_off_is_not_there_by_half(control: Control) -> None:
    worker = control.lab.workers[0]
    connection = NodeConnection(
        "worker1",
        WorkerHost(worker.address, "root", 22),
        KnownHosts(control.home / "known_hosts"),
        key_path=str(control.lab.key),
    )
    shell = ConnectionShell(connection)
    before = worker.docker("images", "-a", "-q")
    try:
        with pytest.raises(BackendError, match="the engine was stopped"):
            images.push(images.find([_CutOff([control.lab.manager.socket])], NAME), shell, "root", lambda sent: None)
        whole = images.find(each(Engine([control.lab.manager.socket])), NAME)
        assert worker.docker("images", "-a", "-q") == before
        assert images.push(whole, shell, "root", lambda sent: None)
    finally:
        shell.close()


class _Node:
    """A shell that answers each command by the first of its words that fits."""

    def __init__(self, **answers: tuple[int, str, str]) -> None:
        self.answers = {
            "docker version --format '{{.Server.Version}}'": (0, "20.10\n", ""),
            "docker version": (0, "linux/amd64\n", ""),
            "docker image inspect": (1, "", "Error: No such image: pushed:1"),
            **{words.replace("_", " "): answer for words, answer in answers.items()},
        }
        self.fed = b""

    def run(self, command: str, seconds: float) -> tuple[int, str, str]:
        plain = command.removeprefix("sudo -n ")
        if command != plain and "sudo" in self.answers:
            return self.answers["sudo"]
        return next(answer for words, answer in self.answers.items() if plain.startswith(words))

    def feed(self, command: str, chunks: Iterable[bytes]) -> tuple[int, str, str]:
        self.fed = b"".join(chunks)
        return self.answers.get("load", (0, "Loaded image: pushed:1", ""))


class _Source(Engine):
    def __init__(self, found: dict[str, Any] | None = None) -> None:
        super().__init__(["unix:///nowhere"])
        self.found = found

    def image(self, name: str) -> dict[str, Any] | None:
        return self.found

    def info(self) -> dict[str, Any]:
        return {"Swarm": {"NodeID": "n1"}}

    def save_image(self, name: str) -> Iterator[bytes]:
        yield b"archive"


IMAGE = Image(_Source(), NAME, "sha256:1", 7, "linux/amd64", "n1")
REFUSED = "permission denied while trying to connect to the Docker daemon socket"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            {"docker_version": (1, "", REFUSED), "sudo": (1, "", "sudo: a password is required")},
            "ada may not use the engine",
        ),
        (
            {"docker_version": (127, "", "sh: docker: not found"), "sudo": (127, "", "")},
            "does not answer: sh: docker: not found",
        ),
        ({"load": (1, "", "write /tmp/x: no space left on device")}, "load: write /tmp/x: no space left on device"),
        ({}, "docker load says that it is done, and pushed:1 is not there"),
    ],
)
def test_what_a_node_refuses_is_told(answers: dict[str, tuple[int, str, str]], words: str) -> None:
    if "docker_version" in answers:
        answers = {"docker version --format '{{.Server.Version}}'": answers["docker_version"], **answers}
    with pytest.raises(BackendError) as caught:
        images.push(IMAGE, _Node(**answers), "ada", lambda sent: None)
    assert words in str(caught.value)
    if "ada" in words:
        assert "usermod -aG docker ada" in (caught.value.hint or "")


def test_an_image_for_another_kind_of_machine_is_not_sent() -> None:
    node = _Node()
    node.answers["docker version"] = (0, "linux/arm64\n", "")
    with pytest.raises(BackendRefused, match="the image is for linux/amd64, and the node is linux/arm64"):
        images.push(IMAGE, node, "root", lambda sent: None)
    assert not node.fed


def test_a_node_that_falls_silent_is_a_fault_of_its_own() -> None:
    class Silent(_Node):
        def feed(self, command: str, chunks: Iterable[bytes]) -> tuple[int, str, str]:
            raise NodeUnreachable("worker1 took nothing more")

    with pytest.raises(BackendError, match="worker1 took nothing more"):
        images.push(IMAGE, Silent(), "root", lambda sent: None)


@pytest.mark.parametrize(("word", "found", "words"), [
    ("x@sha256:1", None, "by its digest"),
    ("x:1", None, "has no image x:1"),
    ("7f3a", {"Id": "sha256:1", "RepoTags": ["x:1", "x:2"]}, "7f3a is not the name of an image"),
])  # fmt: skip
def test_what_cannot_be_brought_is_refused_here(word: str, found: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(BackendRefused, match=words):
        images.find([_Source(found)], word)


@pytest.mark.parametrize("word", ["x", "x:latest", "docker.io/library/x"])
def test_a_name_is_understood_as_docker_does(word: str) -> None:
    found = {"Id": "sha256:1", "RepoTags": ["x:latest"], "Os": "linux", "Architecture": "amd64", "Size": 5}
    image = images.find([_Source(None), _Source(found)], word)
    assert (image.name, image.platform, image.node_id) == ("x:latest", "linux/amd64", "n1")
