"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 150.0
"""Seconds: no measure of how fast anything is, only an end for a test that fails on a busy machine."""
PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds between two looks. Who waits must not take a core from who is waited for: the pause is three times what a
look took, which may start a process, and a tenth of the wait so far."""


def eventually(check: Callable[[], Any], within: float = PATIENCE, what: str | Callable[[], str] = "") -> Any:
    """The first truthy value of `check`, asked again and again. Raises AssertionError after `within` seconds."""
    value = poll(check, within)
    assert value, f"not within {within:g} s: {what() if callable(what) else what or check}"
    return value


def poll(check: Callable[[], Any], within: float) -> Any:
    """The first truthy value of `check`; its last, falsy one when `within` seconds have passed."""
    begun = looked = time.monotonic()
    deadline = begun + within
    while not (value := check()) and (now := time.monotonic()) < deadline:
        time.sleep(min(max(PAUSE, 3 * (now - looked), (now - begun) / 10), LONGEST_PAUSE))
        looked = time.monotonic()
    return value
