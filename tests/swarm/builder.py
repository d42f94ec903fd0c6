"""An engine on this machine's own network, which builds containers/Dockerfile and runs what was built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import die_with_parent
from tests.waiting import PATIENCE, eventually

ROOT = Path(__file__).resolve().parents[2]
BASE = "cumulus-base:local"


class Builder:
    """`directory` holds all of the engine's files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = f"unix://{directory}/docker.sock"

    def docker(self, *words: str, code: int | None = 0, timeout: float = 180, directory: Path = ROOT) -> str:
        """What it printed, both streams. `code` is how it must end, None for anyhow."""
        done = subprocess.run(
            ["docker", "--host", self.socket, *words], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert code in (None, done.returncode), f"docker {' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}"
        return done.stdout

    def run(self, *words: str, code: int | None = 0) -> str:
        """What a container printed that has no network."""
        return self.docker("run", "--rm", "--network=none", *words, code=code)

    def make_base(self) -> None:
        command = [str(ROOT / "containers" / "build-base.sh"), BASE]
        environment = {**os.environ, "DOCKER_HOST": self.socket}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    def build(self, name: str, *options: str) -> None:
        self.docker(
            "build", "--network=host", f"--build-arg=BASE={BASE}", "--file=containers/Dockerfile", f"--tag={name}",
            *options, ".", timeout=600,
        )  # fmt: skip

    def layers(self, name: str) -> list[str]:
        found: list[str] = json.loads(self.docker("image", "inspect", "--format={{json .RootFS.Layers}}", name))
        return found


@contextmanager
def builder() -> Iterator[Builder]:
    """Nothing of it stays, as with a lab."""
    # Below /tmp itself: the name of a socket may be 107 characters long.
    made = Builder(Path(tempfile.mkdtemp(prefix="cumulus-image-")))
    place = made.directory
    (place / "cgroups").write_text(place.name)
    sweeper = subprocess.Popen(
        [sys.executable, "-m", "tests.lab.sweep", str(place)], stdin=subprocess.PIPE, start_new_session=True, cwd=ROOT
    )
    start = (
        f"mount -t tmpfs tmpfs /run && exec dockerd --data-root={place}/data --exec-root={place}/exec"
        f" --pidfile={place}/docker.pid --host={made.socket} --bridge=none --iptables=false --ip6tables=false"
        f" --cgroup-parent=/{place.name} --shutdown-timeout=2"
    )
    with (place / "dockerd.log").open("wb") as log:
        engine = subprocess.Popen(
            ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--propagation=private",
             "docker-init", "--", "sh", "-c", start],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip
    try:
        eventually(lambda: "Server Version" in made.docker("info", code=None), what="the engine answers")
        yield made
    finally:
        engine.kill()
        engine.wait()
        assert sweeper.stdin is not None
        sweeper.stdin.close()
        sweeper.wait(PATIENCE)
