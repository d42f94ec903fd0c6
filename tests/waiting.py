"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 150.0
"""Seconds: no measure of how fast anything is, only an end for a test that fails on a busy machine."""


def eventually(check: Callable[[], Any], within: float = PATIENCE, what: str = "") -> Any:
    """The first truthy value of `check`, asked again and again. Raises AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while not (value := check()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what or check}"
        time.sleep(0.05)
    return value
