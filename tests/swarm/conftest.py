"""A lab for the tests of this folder; they say loudly what is left out where none can be made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MENDED, within
from tests.lab.lab import Lab, lab, missing
from tests.swarm.bed import IMAGE, SwarmBed
from tests.swarm.control import Control, controlled
from tests.swarm.image import busybox
from tests.waiting import eventually

HERE = Path(__file__).parent

FIRST_LAB = (
    "test_backend", "test_cluster", "test_conformance", "test_endpoints", "test_faults", "test_logs", "test_observe",
)  # fmt: skip
"""Take about as long as all others that share a lab."""
OWN_LAB = ("test_dockerfile", "test_managers", "test_script")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Left out with the reason where there can be no lab. Those that share one run in two groups, beside each other:
    each of xdist's workers makes a lab of its own."""
    why = missing()
    for item in items:
        if not within(item, HERE):
            continue
        if "swarm" in getattr(item, "fixturenames", ()) and item.path.stem not in OWN_LAB:
            item.add_marker(pytest.mark.xdist_group("swarm-1" if item.path.stem in FIRST_LAB else "swarm-2"))
        if item.get_closest_marker("docker"):
            if why:
                item.add_marker(pytest.mark.skip(reason=f"THE SWARM'S TESTS ARE LEFT OUT: {why}"))
            elif item.get_closest_marker("image") and (lacks := missing_for_image(config)):
                item.add_marker(pytest.mark.skip(reason=f"THE JOB IMAGE IS NOT BUILT: {lacks}"))


def missing_for_image(config: pytest.Config) -> str:
    """Why containers/Dockerfile is not built here; "" where it is."""
    if "image" not in config.option.markexpr:
        return "it takes minutes and package servers; run pytest -m image tests/swarm/test_dockerfile.py"
    found = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return "" if found else "apt-get install debootstrap"


@pytest.fixture(scope="session")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A manager and two workers with the small image."""
    with lab(2) as made:
        root = tmp_path_factory.mktemp("image")
        busybox(root)
        made.image(IMAGE, root)
        made.load_host_image()
        shutil.rmtree(root)
        for name in made.nodes:
            made.manager.docker("node", "update", "--label-add", f"place={name}", name)
        for node in made.workers:
            made.manager.docker("node", "update", "--label-add", "kind=worker", node.name)
        yield made


@pytest.fixture(autouse=True)
def _whole_lab(request: pytest.FixtureRequest) -> None:
    """No test gets a lab that an earlier one broke; some have a fake Swarm of their own. What had to be mended stands
    at the end of the report."""
    if "swarm" in request.fixturenames and isinstance(lab := request.getfixturevalue("swarm"), Lab):
        request.node.user_properties.extend((MENDED, words) for words in lab.mend())


@pytest.fixture
def bed(swarm: Lab, tmp_path: Path) -> Iterator[SwarmBed]:
    bed = SwarmBed(swarm, tmp_path)
    try:
        yield bed
    finally:
        bed.close()


@pytest.fixture(autouse=True)
def _no_engine_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "SWARM_MANAGER", "DOCKER_TLS_VERIFY", "DOCKER_CONTEXT"):
        if name in os.environ:
            monkeypatch.delenv(name)


@pytest.fixture
def control(swarm: Lab, tmp_path: Path) -> Iterator[Control]:
    with controlled(swarm, tmp_path) as control:
        yield control


@pytest.fixture(scope="module")
def _control_of_module(
    swarm: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Control]:
    with controlled(swarm, tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])) as control:
        yield control


@pytest.fixture
def kept(_control_of_module: Control) -> Iterator[Control]:
    """For a module whose tests leave nothing behind but jobs: a daemon that they share, as its start and end take as
    long as a test. Its nodes are Ready, and it knows no job."""
    if _control_of_module.daemons[-1].poll() is not None:
        _control_of_module.serve()
    _control_of_module.ready()
    yield _control_of_module
    _control_of_module.ok("delete", "jobs", "--all", "--timeout=150s")


@pytest.fixture
def whole(swarm: Lab) -> Iterator[Lab]:
    """The lab, put in order again after the test."""
    yield swarm
    for node in swarm.nodes.values():
        node.heal()
    eventually(lambda: swarm.ready() == set(swarm.nodes), 150, "all nodes are Ready again")
