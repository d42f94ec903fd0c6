"""The Swarm backend, on a real Swarm, keeps the contract: with containers, and with programs of the nodes' disks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.conformance import BackendConformance
from tests.lab.lab import Lab
from tests.swarm.bed import ProgramBed

pytestmark = pytest.mark.docker


class TestSwarmBackend(BackendConformance):
    """The fixture `bed` is in conftest."""


class TestSwarmBackendWithPrograms(BackendConformance):
    """Jobs without an image."""

    @pytest.fixture
    def bed(self, swarm: Lab, tmp_path: Path) -> Iterator[ProgramBed]:
        bed = ProgramBed(swarm, tmp_path)
        try:
            yield bed
        finally:
            bed.close()
