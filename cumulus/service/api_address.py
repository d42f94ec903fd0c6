"""Where the API listens for other users and machines: a small file in the state directory, which the daemon writes."""

from __future__ import annotations

import json
from pathlib import Path

from cumulus import paths
from cumulus.answers.server import ApiAddress
from cumulus.clock import Clock
from cumulus.lib.files import write_durably

PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


def write(home: Path, address: ApiAddress) -> None:
    """Raises OSError."""
    write_durably(str(paths.api_address(home)), json.dumps(address._asdict(), indent=2).encode() + b"\n")


def read(home: Path) -> ApiAddress | None:
    """Where a daemon of the state directory listens, or did last; None where none did."""
    try:
        found = json.loads(paths.api_address(home).read_bytes())
        return ApiAddress(str(found["url"]), str(found["ca"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def wait(home: Path, clock: Clock) -> ApiAddress | None:
    """The same, for a daemon that may have just started: None only after `PATIENCE_SECONDS`."""
    until = clock.monotonic() + PATIENCE_SECONDS
    while (found := read(home)) is None and clock.monotonic() < until:
        clock.sleep(_PAUSE_SECONDS)
    return found
