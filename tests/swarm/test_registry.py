"""Images of a private registry: who is let in, what is said to who is not, and what a digest pins."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from cumulus.backends.base import WorkloadState
from tests.lab.lab import Lab
from tests.swarm.bed import IMAGE, SwarmBed
from tests.swarm.registry import Registry, registry

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def private(swarm: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(swarm, tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture
def logged_in(private: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(private.logged_in))


@pytest.fixture
def stranger(private: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(private.stranger))


def say(bed: SwarmBed, image: str) -> tuple[WorkloadState, str, str]:
    """How a run of the image on worker1 ends, and the image of its service."""
    work = bed.work("cat", "/said", image=image)
    bed.backend.start(work)
    end = bed.finish(work)
    return end.state, end.message or bed.log(work).decode(), pinned(bed, work.name)


def pinned(bed: SwarmBed, name: str) -> str:
    [service] = bed.backend.engine.services([f"cumulus.dev/workload={name}"])
    return str(service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])


def made(lab: Lab, name: str, said: str) -> str:
    """An image on the manager alone whose /said holds that."""
    subprocess.run(
        ["docker", "-H", lab.manager.socket, "build", "--quiet", "--network=none", "--tag", name, "-"],
        input=f"FROM {IMAGE}\nRUN echo {said} >/said\n", text=True, check=True, capture_output=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DOCKER_BUILDKIT": "0"},
    )  # fmt: skip
    return name


@pytest.mark.usefixtures("logged_in")
def test_a_private_image_is_pulled_with_the_credentials_of_the_daemon_and_pinned(
    bed: SwarmBed, private: Registry
) -> None:
    digest = private.push(made(bed.lab, "first:1", "first"), "team/private:1")
    image = f"{private.address}/team/private:1"
    assert say(bed, image) == (WorkloadState.SUCCEEDED, "first\n", f"{image}@{digest}")


@pytest.mark.usefixtures("stranger")
def test_without_credentials_the_run_says_that_the_registry_refuses(bed: SwarmBed, private: Registry) -> None:
    private.push(made(bed.lab, "first:1", "first"), "team/closed:1")
    state, message, image = say(bed, f"{private.address}/team/closed:1")
    assert state is WorkloadState.FAILED
    assert "No such image" in message
    assert "its registry says: " in message
    assert "docker login" in message
    assert "@" not in image


@pytest.mark.usefixtures("logged_in")
def test_an_image_by_its_digest_stays_what_it_was_when_its_tag_moves(bed: SwarmBed, private: Registry) -> None:
    old = private.push(made(bed.lab, "first:1", "first"), "team/moving:1")
    new = private.push(made(bed.lab, "second:1", "second"), "team/moving:1")
    assert old != new
    by_digest = f"{private.address}/team/moving@{old}"
    assert say(bed, by_digest) == (WorkloadState.SUCCEEDED, "first\n", by_digest)


@pytest.mark.usefixtures("logged_in")
def test_an_image_that_the_registry_does_not_have(bed: SwarmBed, private: Registry) -> None:
    state, message, _ = say(bed, f"{private.address}/team/nothing:1")
    assert state is WorkloadState.FAILED
    assert "its registry says: " in message


@pytest.mark.usefixtures("stranger")
def test_credentials_are_read_anew_for_each_attempt(
    bed: SwarmBed, private: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moby#36126: Swarm keeps what a service was created with."""
    private.push(made(bed.lab, "first:1", "first"), "team/later:1")
    image = f"{private.address}/team/later:1"
    first = bed.work("cat", "/said", image=image)
    bed.backend.start(first)
    assert bed.finish(first).state is WorkloadState.FAILED
    monkeypatch.setenv("DOCKER_CONFIG", str(private.logged_in))
    second = bed.work("cat", "/said", image=image, attempt=2)
    bed.backend.start(second)
    assert bed.finish(second).state is WorkloadState.SUCCEEDED
