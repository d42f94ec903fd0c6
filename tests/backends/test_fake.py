"""The scriptable fake keeps the contract that controllers are tested against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from cumulus.backends.base import CallToRun, Workload
from cumulus.clock import FakeClock
from cumulus.testing.backend import FakeBackend, Script
from tests.backends.conformance import BackendConformance, Bed, Behaviour


class FakeBed(Bed):
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.behaviours: dict[str, Behaviour] = {}
        self.backend: FakeBackend = FakeBackend(self.clock, script=lambda w: self._script(self.behaviours[w.name]))

    def workload(self, behaviour: Behaviour, *, job: str = "job", attempt: int = 1, replica: int = 0) -> Workload:
        name = f"default.{job}.0-a{attempt}-r{replica}"
        self.behaviours[name] = behaviour
        return Workload(
            name=name, namespace="default", job=job, job_uid=f"uid-{job}", attempt=attempt, replica=replica,
            replicas=1, node="n", command=("x",), leases=(),
        )  # fmt: skip

    def call(self, *, job: str = "job") -> Workload:
        call = CallToRun("0:root", "a" * 64, "3.11")
        return dataclasses.replace(self.workload(Behaviour(), job=job), command=(), call=call)

    def until(self, met: Callable[[], object], *, within: float = 20.0) -> None:
        for _ in range(round(within / 0.05)):
            self.backend.tell()
            if met():
                return
            self.clock.advance(0.05)
        raise AssertionError(f"not within {within} s")

    def beside(self, code: int) -> tuple[str, ...]:
        return "hello", str(code)

    def reopen(self) -> None:
        """The fake's workloads live as long as the object: there is nothing to open anew."""

    @staticmethod
    def _script(behaviour: Behaviour) -> Script:
        return Script(
            seconds=behaviour.seconds,
            exit_code=behaviour.exit_code,
            stop_seconds=0.0 if behaviour.heeds_stop else 1000.0,
            start_seconds=0.01,
            output=behaviour.output.encode(),
            result=b"returned",
        )


class TestFakeBackend(BackendConformance):
    @pytest.fixture
    def bed(self) -> Bed:
        return FakeBed()
