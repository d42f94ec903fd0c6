"""The Swarm backend, on a real Swarm, keeps the contract."""

from __future__ import annotations

import pytest

from tests.backends.conformance import BackendConformance

pytestmark = pytest.mark.docker


class TestSwarmBackend(BackendConformance):
    """The fixture `bed` is in conftest."""
