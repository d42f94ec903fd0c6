"""Three managers, of which the leader dies while jobs run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab, lab
from tests.swarm.bed import IMAGE
from tests.swarm.control import Control, controlled, job
from tests.swarm.image import busybox
from tests.swarm.test_chaos import NOTE, book
from tests.swarm.test_faults import settled
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Lab]:
    """A Swarm whose every node is a manager; its own, since one is to die."""
    with lab(2) as made:
        root = tmp_path / "image"
        root.mkdir()
        busybox(root)
        made.image(IMAGE, root)
        shutil.rmtree(root)
        made.promote()
        for name in made.nodes:
            made.manager.docker(
                "node", "update", "--label-add", f"place={'dies' if name == 'manager' else 'lives'}", name
            )
        yield made


@pytest.fixture
def plane(three: Lab, tmp_path: Path) -> Iterator[Control]:
    managers = ",".join(node.socket for node in three.nodes.values())
    with controlled(three, tmp_path / "control", SWARM_MANAGER=managers) as control:
        yield control


def test_jobs_outlive_the_leader_of_the_managers(three: Lab, plane: Control, tmp_path: Path) -> None:
    directory = tmp_path / "book"
    directory.mkdir()
    lives = {"selector": {"nodeLabels": {"place": "lives"}}}
    mount: dict[str, Any] = {"mounts": [{"source": str(directory), "target": "/book"}], "gpu": lives}
    before = [f"before-{n}" for n in range(4)]
    plane.apply(
        *(
            job(name, f"{NOTE} while [ ! -e /book/go-on ]; do sleep 0.1; done", duration="300s", **mount)
            for name in before
        )
    )
    for name in before:
        eventually(partial(_runs, plane, name), what=f"{name} runs")
    three.manager.power_off()
    after = [f"after-{n}" for n in range(4)]
    plane.apply(*(job(name, f"{NOTE} true", **mount) for name in after))
    for name in after:
        plane.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=200s", timeout=220)
    assert [plane.phase(name) for name in before] == ["Running"] * 4
    three.manager.boot()
    eventually(lambda: three.ready() == set(three.nodes), what="the manager is back")
    (directory / "go-on").touch()
    for name in before:
        plane.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=200s", timeout=220)
    (directory / "go-on").unlink()
    assert all(len(plane.attempts(name)) == 1 for name in [*before, *after])
    assert book(directory) == {f"{name} 1 0": 1 for name in [*before, *after]}
    settled(plane)


def _runs(plane: Control, name: str) -> bool:
    return len(plane.containers(name)) == 1
