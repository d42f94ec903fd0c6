"""What the environment says to Chronos, read here alone. Standard library only.

`runtime` reads its own: it runs beside no other module of Chronos.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cumulus.chronos.contract.variables import CUDA_COUNTER, HOME, MONITOR_IDLE, MPS_MODE, OFFER_CPU, OPENCL_LAYER
from cumulus.environment import DOCKER_HOST
from cumulus.errors import UsageError


@dataclass(frozen=True, slots=True)
class LocalSettings:
    home: Path | None
    """None: wherever this user's ledger is kept."""
    state_home: Path
    """Where programs of this user keep their state."""
    offer_cpu: bool
    mps_mode: str
    opencl_layer: Path | None
    cuda_counter: Path | None
    """None: wherever one is built."""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> LocalSettings:
        home, layer, counter = (environment.get(name) for name in (HOME, OPENCL_LAYER, CUDA_COUNTER))
        return cls(
            home=Path(home).absolute() if home else None,
            state_home=Path(environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")),
            offer_cpu=environment.get(OFFER_CPU) == "1",
            mps_mode=environment.get(MPS_MODE) or "shared",
            opencl_layer=Path(layer) if layer else None,
            cuda_counter=Path(counter) if counter else None,
        )


def monitor_idle(environment: Mapping[str, str] = os.environ) -> float:
    """Apart from the others: the monitor alone reads it. Raises UsageError where it is not a number of seconds."""
    text = environment.get(MONITOR_IDLE) or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        fix = f"set {MONITOR_IDLE} to 30, or unset it"
        raise UsageError(f"{MONITOR_IDLE}={text} is not a number of seconds", hint=fix)
    return seconds


def engine_socket(environment: Mapping[str, str] = os.environ) -> str:
    """Where the node's own container engine listens: what DOCKER_HOST names, where it is a socket."""
    scheme, _, path = environment.get(DOCKER_HOST, "").partition("://")
    return path if scheme == "unix" else "/var/run/docker.sock"
