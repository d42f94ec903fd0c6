"""A Docker engine of the tests' own on this machine, a Swarm of one node, with Chronos' runtime and a job image."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

from cumulus.backends.swarm.cluster import initialise
from cumulus.backends.swarm.engine import Engine
from tests import processes
from tests.waiting import eventually

ROOT = Path(__file__).parent.parent.parent
IMAGE = "cumulus-job:gpu-test"
NEEDED = ("dockerd", "containerd", "runc", "docker-init", "busybox")


def missing() -> list[str]:
    """The programs that are not here."""
    return [name for name in NEEDED if shutil.which(name) is None]


@contextmanager
def engine(directory: Path) -> Iterator[Engine]:
    """It has no network: what runs in it needs none, and the machine's rules for packets stay as they are."""
    socket, log = f"unix://{directory}/docker.sock", directory / "dockerd.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [
                "dockerd", f"--data-root={directory}/data", f"--exec-root={directory}/run", f"--host={socket}",
                f"--pidfile={directory}/docker.pid", "--bridge=none", "--iptables=false", "--ip6tables=false",
                f"--add-runtime=chronos={runtime(directory)}", "--default-runtime=chronos", "--shutdown-timeout=2",
            ],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    client = docker.APIClient(base_url=socket, version="1.41")
    made = Engine([socket])
    try:
        eventually(lambda: answers(client) or daemon.poll() is not None, within=60, what="the engine answers")
        assert daemon.poll() is None, log.read_text()[-2000:]
        initialise(made, "127.0.0.1")
        load(client, directory)
        yield made
    finally:
        made.close()
        client.close()
        processes.end([daemon])


def answers(client: docker.APIClient) -> bool:
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False


def runtime(directory: Path) -> Path:
    """The runtime as scripts/join-swarm.sh installs it, with this Python."""
    path = directory / "chronos-runtime"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {ROOT}/cumulus/chronos/runtime.py "$@"\n')
    path.chmod(0o755)
    return path


def load(client: docker.APIClient, directory: Path) -> None:
    """The image that containers/build-local.sh makes, with the programs of these tests."""
    root = directory / "root"
    subprocess.run([sys.executable, ROOT / "containers/local_root.py", root], check=True)
    shutil.copytree(ROOT / "tests", root / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    archive = directory / "image.tar"
    subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={root}", "."], check=True)
    repository, _, tag = IMAGE.partition(":")
    paths = "/opt/python/bin:/usr/local/bin:/usr/bin:/bin"
    changes = [f"ENV PATH={paths} LD_LIBRARY_PATH=/opt/lib PYTHONUNBUFFERED=1 HOME=/work", "USER 1000", "WORKDIR /work"]
    client.import_image_from_file(str(archive), repository=repository, tag=tag, changes=changes)
    shutil.rmtree(root)
    archive.unlink()
