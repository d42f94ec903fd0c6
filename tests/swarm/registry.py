"""A registry of this machine that lets in who has a password, for a lab's nodes. Needs Debian's docker-registry."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest

from tests.lab.lab import Lab
from tests.waiting import eventually

USER, PASSWORD = "ci", "correct horse"

_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}}}
http: {{addr: "{address}"}}
auth: {{htpasswd: {{realm: lab, path: {directory}/htpasswd}}}}
"""


class Registry:
    """At `address` (host:port); `logged_in` and `stranger` are directories as DOCKER_CONFIG has them."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.address = f"{lab.host}:{_free_port(lab.host)}"
        self.logged_in, self.stranger = directory / "logged-in", directory / "stranger"
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        for place, auths in ((self.logged_in, {self.address: {"auth": auth}}), (self.stranger, {})):
            place.mkdir(parents=True)
            (place / "config.json").write_text(json.dumps({"auths": auths}))
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (directory / "htpasswd").write_text(f"{USER}:{hashed}\n")
        (directory / "config.yml").write_text(_CONFIG.format(directory=directory, address=self.address))

    def push(self, image: str, name: str) -> str:
        """Give the manager's `image` to the registry as `name`, and forget that name there: its digest."""
        manager, whole = self.lab.manager, f"{self.address}/{name}"
        manager.docker("tag", image, whole)
        manager.docker("--config", str(self.logged_in), "push", "--quiet", whole)
        digest = manager.docker("inspect", "--format", "{{index .RepoDigests 0}}", whole).partition("@")[2]
        manager.docker("rmi", whole)
        return digest


@contextmanager
def registry(lab: Lab, directory: Path) -> Iterator[Registry]:
    """Skips the test where there can be none."""
    if not shutil.which("docker-registry"):
        pytest.skip("no registry here: apt-get install docker-registry")
    made = Registry(lab, directory)
    with open(directory / "registry.log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(directory / "config.yml")], stdout=log, stderr=log)
    try:
        host, _, port = made.address.partition(":")
        eventually(lambda: _listens(host, int(port)), what="the registry listens")
        yield made
    finally:
        process.terminate()
        process.wait()


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
