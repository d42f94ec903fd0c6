"""Watches the Swarm: services and nodes by its events, tasks by polling while some are live.

The events of a manager tell nothing of tasks, so those of live runs are asked for, all in one call: often while one
starts or ends, seldom while all just run. An idle daemon holds one stream open and asks once a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from cumulus.backends.swarm import spec
from cumulus.backends.swarm.engine import Engine
from cumulus.backends.swarm.tasks import TERMINAL
from cumulus.errors import BackendError, NotOurs

log = structlog.get_logger("cumulus.backends")

BUSY_SECONDS = 0.1
BUSY_SECONDS_PER_RUN = 0.01
"""Between looks while a task is on its way: longer with more live runs, since one look is about them all."""
CALM_SECONDS = 1.5
"""Between looks while all live tasks run."""
RELIST_SECONDS = 60.0
"""Between looks at everything, which make up for whatever was not heard."""
_RECONNECT_SECONDS = 2.0

Signature = tuple[str, ...]


class SwarmWatcher:
    """Calls `changed(workload name)` from its threads, and `swept()` now and then; None: look at all of them.

    `live` tells how many runs have not ended, and whether one of them is being started or ended."""

    def __init__(
        self,
        engine: Engine,
        instance: Callable[[], str],
        *,
        live: Callable[[], tuple[int, bool]],
        changed: Callable[[str | None], None],
        swept: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._instance = instance
        self._live = live
        self._changed = changed
        self._swept = swept
        self._stop = threading.Event()
        self._poke = threading.Event()
        self._seen: dict[str, Signature] = {}
        self._names: dict[str, str] = {}
        self._stream: Any = None
        self._threads = [
            threading.Thread(target=self._look_at_tasks, name="swarm-tasks", daemon=True),
            threading.Thread(target=self._hear_events, name="swarm-events", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def poke(self) -> None:
        """Something was started or stopped: look often now."""
        self._poke.set()

    def close(self) -> None:
        self._stop.set()
        self._poke.set()
        self._threads[0].join(5)

    def _look_at_tasks(self) -> None:
        next_sweep = 0.0
        while not self._stop.is_set():
            moving = False
            try:
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + RELIST_SECONDS
                    self._swept()
                moving = self._look()
            except NotOurs:
                # It is told where it is found out.
                self._stop.wait(_RECONNECT_SECONDS)
            except BackendError as error:
                log.warning("cannot look at the Swarm's tasks", error=str(error))
                self._stop.wait(_RECONNECT_SECONDS)
            except Exception:
                log.exception("looking at the Swarm's tasks failed")
                self._stop.wait(_RECONNECT_SECONDS)
            live, _ = self._live()
            if live:
                busy = min(1.0, BUSY_SECONDS + BUSY_SECONDS_PER_RUN * live)
                if not moving:
                    self._poke.wait(CALM_SECONDS)
                self._stop.wait(busy)
            else:
                self._poke.wait(max(0.1, next_sweep - time.monotonic()))
            self._poke.clear()

    def _look(self) -> bool:
        """Tell of every task that is not as it was. Whether one is on its way."""
        live, moving = self._live()
        if not live:
            self._seen.clear()
            return False
        current: dict[str, list[str]] = {}
        for task in self._engine.tasks({"label": [self._filter()]}):
            state = task["Status"]["State"]
            state = state if state in ("pending", "running", *TERMINAL) else "starting"
            desired, node = task.get("DesiredState", ""), task.get("NodeID", "")
            current.setdefault(task["ServiceID"], []).append(f"{task['ID']} {state} {desired} {node != ''}")
            moving = moving or state == "starting"
        signatures = {service: tuple(sorted(parts)) for service, parts in current.items()}
        different = {s for s in {*signatures, *self._seen} if signatures.get(s) != self._seen.get(s)}
        self._seen = signatures
        for service in sorted(different):
            self._tell(service)
        return moving

    def _tell(self, service: str) -> None:
        name = self._names.get(service)
        if name is None:
            self._learn()
            name = self._names.get(service)
        self._changed(name)

    def _filter(self) -> str:
        return f"{spec.INSTANCE}={self._instance()}"

    def _learn(self) -> None:
        """Which service runs which workload."""
        found = self._engine.services([self._filter()])
        self._names |= {s["ID"]: s["Spec"]["Labels"].get(spec.WORKLOAD, "") for s in found}

    def knows(self, service: str, name: str) -> None:
        """Told of a service that was just created, so that it need not be asked for."""
        self._names[service] = name

    def _hear_events(self) -> None:
        since = f"{time.time():.9f}"
        while not self._stop.is_set():
            try:
                for event in self._engine.events(since, ("service", "node")):
                    since = _after(event, since)
                    self._hear(event)
                    if self._stop.is_set():
                        return
            except BackendError as error:
                log.info("the Swarm's events cannot be heard", error=str(error))
            except Exception:
                log.exception("hearing the Swarm's events failed")
            self._stop.wait(_RECONNECT_SECONDS)

    def _hear(self, event: Mapping[str, Any]) -> None:
        if event.get("Type") == "node":
            self._changed(None)
        elif event.get("Action") != "create":
            name = self._names.get(event.get("Actor", {}).get("ID", ""))
            if name:
                self._changed(name)
                self._poke.set()


def _after(event: Mapping[str, Any], since: str) -> str:
    """From where to go on after this event, so that none is missed while the stream is opened anew."""
    nanoseconds = event.get("timeNano")
    return f"{(int(nanoseconds) + 1) / 1e9:.9f}" if nanoseconds else since
