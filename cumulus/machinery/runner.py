"""The one place where a reconcile's outcome becomes a decision about when to look again.

A runner takes a key from its queue, calls the controller, and maps what came of it: `Done`, `After`, `Retry`,
`Permanent`, a store's `Conflict`, leadership lost (`Fenced`), a node that does not answer, or a defect. Nothing
else in the controllers catches broadly.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import structlog

from cumulus.errors import (
    AlreadyExists,
    BackendError,
    ChronosError,
    Conflict,
    Fenced,
    InvalidObject,
    NodeUnreachable,
    NotFound,
    StoreUnavailable,
)
from cumulus.machinery.reconcile import After, Controller, Permanent, Request, Retry
from cumulus.machinery.workqueue import WorkQueue

log = structlog.get_logger("cumulus.controllers")

QUIET_FAILURES = 4
"""A passing fault is not worth a warning before it has come back this often."""


class Runner:
    """Steps one controller over one queue. Several threads may step the same runner."""

    def __init__(self, controller: Controller, queue: WorkQueue, *, fenced: Callable[[], None]) -> None:
        """`fenced` is called when a write showed that another daemon leads."""
        self.controller = controller
        self.queue = queue
        self._fenced = fenced
        self._ids = count(1)

    def step(self, timeout: float | None = 0) -> bool:
        """Reconcile the next key; False when none came within `timeout` seconds or the queue was shut down."""
        key = self.queue.get(timeout)
        if key is None:
            return False
        try:
            self._run(key)
        finally:
            self.queue.done(key)
        return True

    def _run(self, key: Request) -> None:
        number = next(self._ids)
        try:
            result = self.controller.reconcile(key)
        except Fenced:
            self._log(key, number).info("leadership lost")
            self._fenced()
        except (Conflict, AlreadyExists, NotFound) as error:
            # What was read was stale; the watch brings the rest, so this says nothing to a person.
            self._log(key, number).debug("stale", error=str(error), again_in=self.queue.back_off(key))
        except (Permanent, InvalidObject) as error:
            self.queue.forget(key)
            self._log(key, number).error("given up until the object changes", error=str(error))
        except (Retry, NodeUnreachable, BackendError, ChronosError, StoreUnavailable) as error:
            self._again(key, number, error)
        except Exception:
            self._log(key, number).exception("defect in reconcile", again_in=self.queue.back_off(key))
        else:
            self.queue.forget(key)
            log.debug(
                "reconciled", loop=self.controller.name, key=path(key), reconcile=number, result=repr(result)
            )  # fmt: skip
            if isinstance(result, After):
                self.queue.add_after(key, result.seconds)

    def _again(self, key: Request, number: int, error: Exception) -> None:
        bound = self._log(key, number)
        say = bound.info if self.queue.failures(key) < QUIET_FAILURES else bound.warning
        say("again later", error=str(error), kind=type(error).__name__, again_in=self.queue.back_off(key))

    def _log(self, key: Request, number: int) -> structlog.stdlib.BoundLogger:
        bound: structlog.stdlib.BoundLogger = log.bind(loop=self.controller.name, key=path(key), reconcile=number)
        return bound


def path(key: Request) -> str:
    """`namespace/name`, or the name alone, for logs."""
    return f"{key.namespace}/{key.name}" if key.namespace else key.name
