"""The Swarm as a whole: creates it, lets machines join, and checks the settings that jobs need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cumulus.backends.swarm.engine import Engine
from cumulus.errors import BackendError, BackendRefused

HISTORY = 5
"""Tasks of a service that Swarm must remember: less, and how a job ended is pruned (moby#37520, #45443)."""
HEARTBEAT_SECONDS = 20
"""Three of them missed, a node is down, and Swarm ends its containers when it comes back."""

_NANO = 10**9


PORT = 2377


def initialise(engine: Engine, advertise: str = "", listen: str = "") -> bool:
    """Make the engine a manager, or put its Swarm's settings right. Whether it was made.

    Raises `BackendRefused` where no interface of the engine's machine has the address, or where the manager has another
    one already: Swarm cannot change it."""
    present = engine.info()["Swarm"]
    if present["LocalNodeState"] != "active":
        _make(engine, advertise, listen)
        return True
    address = present.get("NodeAddr", "")
    if advertise and _host(advertise) != address:
        raise BackendRefused(
            f"the engine manages a Swarm already, as {address}, and Swarm cannot change a manager's address",
            hint="keep that Swarm, or end it with its services and secrets (docker swarm leave --force) and create it"
            " again",
        )
    swarm = engine.swarm()
    wanted = _settled(swarm["Spec"])
    if wanted != swarm["Spec"]:
        engine.swarm_update(wanted, swarm["Version"]["Index"])
    return False


def _make(engine: Engine, advertise: str, listen: str) -> None:
    """The engine does not check what it advertises, but it cannot listen on an address that no interface has."""
    body: dict[str, Any] = {"Spec": _settled({})}
    if advertise:
        body["AdvertiseAddr"] = advertise
    host = _host(listen or advertise or "0.0.0.0")
    try:
        engine.swarm_init({"ListenAddr": f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}", **body})
    except BackendError as error:
        if "assign requested address" not in str(error):
            raise
        raise BackendRefused(
            f"no interface of the engine's machine has the address {host}",
            hint="name one that it has (ip address); where it is behind NAT, add --listen 0.0.0.0",
        ) from None


def _host(address: str) -> str:
    """Without its port, and without the brackets of IPv6."""
    if address.startswith("["):
        return address[1:].split("]", 1)[0]
    return address.rsplit(":", 1)[0] if address.count(":") == 1 else address


def invitation(engine: Engine) -> tuple[str, str]:
    """The manager's address and the token with which workers join. Raises `BackendError`."""
    token = str(engine.swarm()["JoinTokens"]["Worker"])
    managers = engine.info()["Swarm"].get("RemoteManagers") or [{}]
    return str(managers[0].get("Addr", "")), token


def warnings(engine: Engine) -> Sequence[str]:
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
