"""A gang with a GPU for each replica: they find each other, reach each other's GPUs, and are held to their own."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from benchmarks.gangs import PROGRAM, WITHOUT_MULTICAST, bare
from cumulus.chronos.contract import Device
from cumulus.resources.device import Link
from tests.e2e.conftest import Machine, manifest

from .conftest import HUGE, part
from .daemon import answers, job
from .test_several import REFUSED, gpus

__all__ = ["gpus"]
Measured = Callable[[str, object], None]
ENV = [{"name": name, "value": value} for name, value in WITHOUT_MULTICAST.items()]


def test_the_driver_tells_how_gpus_are_linked(gpus: list[Device], measured: Measured) -> None:
    told = [{link.value: peers for link, peers in device.links} for device in gpus]
    measured("links", told)
    assert all(sum(map(len, links.values())) == len(gpus) - 1 for links in told)
    assert all(links.keys() <= set(Link) for links in told)


def test_a_gang_reduces_over_all_gpus_as_fast_as_without_cumulus(
    gpus: list[Device], machine: Machine, measured: Measured
) -> None:
    pytest.importorskip("torch")
    count = len(gpus)
    spec = manifest("gang", f"exec {sys.executable} {PROGRAM}", memory="100%", duration="5m", replicas=count, env=ENV)
    machine.apply(spec)
    machine.ok("wait", "job", "gang", "--for=condition=Running", "--timeout=60s")
    linked = machine.ok("why", "gang")
    machine.ok("wait", "job", "gang", "--for=condition=Succeeded", "--timeout=120s")
    (found,) = answers(machine, "gang")
    without = bare(count)
    measured("all-reduce of 1 GiB, GB/s, as a gang and without Cumulus", [found["gb_per_second"], without])
    assert found["sum"] == count
    assert found["gb_per_second"] > 0.95 * without
    if any(link is Link.NVLINK for link, _ in gpus[0].links):
        assert "linked by NVLink" in linked


def test_replicas_with_shares_reach_each_other_and_are_held_to_their_own(
    gpus: list[Device], gpu: Device, machine: Machine
) -> None:
    """Nor is what they map of each other's GPU taken for overuse, which ends a lease of a share."""
    pytest.importorskip("torch")
    count = len(gpus)
    spec = manifest("shares", f"exec {sys.executable} {PROGRAM}", memory="60%", replicas=count, env=ENV)
    machine.apply(spec, manifest("held", job("alloc", "device", part(gpu, HUGE)), memory="5%", replicas=2))
    machine.ok("wait", "job", "--all", "--for=condition=Succeeded", "--timeout=120s")
    assert [found["sum"] for found in answers(machine, "shares")] == [count]
    assert {answer["outcome"] for answer in answers(machine, "held")} == {REFUSED}
