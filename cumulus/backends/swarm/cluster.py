"""The Swarm as a whole: made, joined, and checked for the settings that jobs need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cumulus.backends.swarm.engine import Engine

HISTORY = 5
"""Tasks of a service that Swarm must remember: less, and how a job ended is pruned (moby#37520, #45443)."""
HEARTBEAT_SECONDS = 20
"""Three of them missed, a node is down, and Swarm ends its containers when it comes back."""

_NANO = 10**9


def initialise(engine: Engine, advertise: str = "") -> bool:
    """Make the engine a manager, or put its Swarm's settings right. Whether it was made."""
    made = engine.info()["Swarm"]["LocalNodeState"] != "active"
    if made:
        body: dict[str, Any] = {"ListenAddr": "0.0.0.0:2377", "Spec": _settled({})}
        if advertise:
            body["AdvertiseAddr"] = advertise
        engine.swarm_init(body)
        return True
    swarm = engine.swarm()
    wanted = _settled(swarm["Spec"])
    if wanted != swarm["Spec"]:
        engine.swarm_update(wanted, swarm["Version"]["Index"])
    return False


def invitation(engine: Engine) -> tuple[str, str]:
    """The manager's address and the token with which workers join. Raises `BackendError`."""
    token = str(engine.swarm()["JoinTokens"]["Worker"])
    managers = engine.info()["Swarm"].get("RemoteManagers") or [{}]
    return str(managers[0].get("Addr", "")), token


def troubles(engine: Engine) -> Sequence[str]:
    """What of the Swarm's settings is not as jobs need it."""
    spec = engine.swarm()["Spec"]
    found = []
    if _history(spec) < 2:
        found.append("the Swarm keeps no history of tasks: how jobs ended is lost; run `cumulus cluster init`")
    if _heartbeat(spec) < HEARTBEAT_SECONDS * _NANO:
        seconds = 3 * _heartbeat(spec) / _NANO
        found.append(
            f"a node that is silent for {seconds:.0f}s loses its containers when it comes back;"
            " `cumulus cluster init` makes that a minute"
        )
    return found


def _settled(spec: dict[str, Any]) -> dict[str, Any]:
    wanted = dict(spec)
    wanted.setdefault("Name", "default")
    wanted["Orchestration"] = {"TaskHistoryRetentionLimit": max(HISTORY, _history(spec))}
    wanted["Dispatcher"] = {"HeartbeatPeriod": max(HEARTBEAT_SECONDS * _NANO, _heartbeat(spec))}
    return wanted


def _history(spec: dict[str, Any]) -> int:
    return int((spec.get("Orchestration") or {}).get("TaskHistoryRetentionLimit", 0))


def _heartbeat(spec: dict[str, Any]) -> int:
    return int((spec.get("Dispatcher") or {}).get("HeartbeatPeriod", 0))
