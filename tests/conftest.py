"""For all tests: how hypothesis searches."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Machines are shared and slow at times: no example fails for its time. CI searches the same examples each time; a
# person's runs search new ones.
settings.register_profile(
    "cumulus", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("cumulus")
