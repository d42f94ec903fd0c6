"""Decides when to look again, from the outcome of a reconcile. This happens nowhere else.

A runner takes a key from its queue, calls the reconciler, and maps what came of it: `Done`, `RequeueAfter`, `Retry`,
`Permanent`, a store's `Conflict`, leadership lost (`Fenced`), a node that does not answer, or a defect. Nothing
else in the controllers catches broadly. Every line that is logged meanwhile, also by the store, a backend or a node's
client, carries the controller, the key and the reconcile's number.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from time import perf_counter

import structlog
from structlog.contextvars import bind_contextvars, reset_contextvars

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
from cumulus.machinery.instruments import Instruments, ReconcileOutcome
from cumulus.machinery.reconcile import Permanent, Reconciler, Request, RequeueAfter, Retry
from cumulus.machinery.workqueue import WorkQueue

log = structlog.get_logger("cumulus.controllers")

QUIET_FAILURES = 4
"""A passing fault is not worth a warning before it has come back this often."""


class Runner:
    """Steps one reconciler over one queue. Several threads may step the same runner."""

    def __init__(
        self, reconciler: Reconciler, queue: WorkQueue, *,
        fenced: Callable[[], None], instruments: Instruments | None = None,
    ) -> None:  # fmt: skip
        """`fenced` is called when a write showed that another daemon leads."""
        self.reconciler = reconciler
        self._instruments = instruments or Instruments()
        self.queue = queue
        self._fenced = fenced
        self._ids = count(1)

    @property
    def name(self) -> str:
        """The controller's, which its queue has too."""
        return self.queue.name

    def step(self, timeout: float | None = 0) -> bool:
        """Reconcile the next key; False when none came within `timeout` seconds or the queue was shut down."""
        key = self.queue.get(timeout)
        if key is None:
            return False
        # `bound_contextvars` looks at all that is bound, for each key.
        bound = bind_contextvars(loop=self.queue.name, key=path(key), reconcile=next(self._ids))
        started = perf_counter()
        try:
            outcome = self._run(key)
            self._instruments.reconciled(self.queue.name, outcome, perf_counter() - started)
        finally:
            reset_contextvars(**bound)
            self.queue.done(key)
        return True

    def _run(self, key: Request) -> ReconcileOutcome:
        try:
            result = self.reconciler.reconcile(key)
        except Fenced:
            log.info("leadership lost")
            self._fenced()
            return ReconcileOutcome.REQUEUE
        except (Conflict, AlreadyExists, NotFound) as error:
            # What was read was stale; the watch brings the rest, so this says nothing to a person.
            log.debug("stale", error=str(error), again_in=self.queue.back_off(key))
            return ReconcileOutcome.REQUEUE
        except (Permanent, InvalidObject) as error:
            self.queue.forget(key)
            log.error("given up until the object changes", error=str(error))
            return ReconcileOutcome.TERMINAL
        except (Retry, NodeUnreachable, BackendError, ChronosError, StoreUnavailable) as error:
            self._again(key, error)
            return ReconcileOutcome.ERROR
        except Exception:
            log.exception("defect in reconcile", again_in=self.queue.back_off(key))
            return ReconcileOutcome.PANIC
        self.queue.forget(key)
        log.debug("reconciled", result=repr(result))
        if isinstance(result, RequeueAfter):
            self.queue.add_after(key, result.seconds)
            return ReconcileOutcome.REQUEUE_AFTER
        return ReconcileOutcome.SUCCESS

    def _again(self, key: Request, error: Exception) -> None:
        say = log.info if self.queue.failures(key) < QUIET_FAILURES else log.warning
        say("again later", error=str(error), kind=type(error).__name__, again_in=self.queue.back_off(key))


def path(key: Request) -> str:
    """`namespace/name`, or the name alone, for logs."""
    return f"{key.namespace}/{key.name}" if key.namespace else key.name
