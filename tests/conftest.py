"""For all tests: how hypothesis searches, and which tests must not run beside each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and slow at times: no example fails for its time. CI searches the same examples each time; a
# person's runs search new ones.
settings.register_profile(
    "cumulus", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("cumulus")

CHRONOS = Path(__file__).parent / "chronos"


# First, since xdist reads the groups in a hook of its own.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of Chronos name their leases alike, and a monitor ends whatever process names its lease: one at a time."""
    for item in items:
        if CHRONOS in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("chronos"))
