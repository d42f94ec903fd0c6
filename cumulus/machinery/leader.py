"""Leader election: exactly one daemon acts on a store, and a deposed one cannot write.

The leader renews the one `Lease` object; a standby measures with its own monotonic clock for how long that object
did not change, so that clocks of different machines are never compared. It waits for no leader whose process is
certainly gone, which only one of the same machine can know. Each change of holder raises `spec.token`, and the store
checks the token in the transaction of every controller's write (`Fence`).
Protocol: client-go's leaderelection, with the fencing tokens it lacks.

A term that was not renewed in time is over for good, also where its renewal arrives at last: threads that looked in
between have left their work, and only a new term makes new ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from cumulus.clock import Clock, timestamp
from cumulus.errors import AlreadyExists, Conflict, Fenced, InvalidObject, NotFound, StoreReplaced, StoreUnavailable
from cumulus.resources.conditions import condition_set
from cumulus.resources.kinds.lease import LEADER
from cumulus.resources.lease import Lease, LeaseSpec
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.reasons import LeaderCondition, LeaderReason
from cumulus.store.base import Fence, Store
from cumulus.store.client import StoreClient

log = structlog.get_logger("cumulus.controllers")

LEASE_SECONDS = 6.0
RENEW_SECONDS = 2.0
WATCH_SECONDS = 1.0
"""How often a standby looks: a takeover comes within that after a kill on its own machine, else within 8 s."""


@dataclass(frozen=True, slots=True)
class Term:
    """One time of leading. `revision` is that of the takeover: everything earlier leaders wrote precedes it."""

    fence: Fence
    revision: int
    store_id: str
    """The Lease object's uid: a name for this store that a backup and a restore keep."""


class Elector:
    """Stepped every `interval` seconds, by one thread. Any thread may ask about a term, and end it."""

    def __init__(
        self,
        store: Store,
        identity: str,
        clock: Clock,
        *,
        process: str = "",
        is_gone: Callable[[str], bool] = lambda process: False,
    ) -> None:
        """`identity` must differ between daemons and between starts of one daemon. `process` names this process;
        `is_gone` tells of another's name whether that process has certainly ended."""
        self.identity = identity
        self._process = process
        self._is_gone = is_gone
        self._client = StoreClient(store)
        self._clock = clock
        self._mutex = threading.Lock()
        """Guards the term, its deadline and what is held."""
        self._term: Term | None = None
        self._held: Lease | None = None
        self._deadline = 0.0
        self._seen: tuple[str | None, float] = (None, 0.0)

    @property
    def term(self) -> Term | None:
        """The present term, None while standing by, and also once this daemon failed to renew in time: it then
        stops by itself, before anyone else may start."""
        with self._mutex:
            return self._term if self._clock.monotonic() < self._deadline else None

    @property
    def leading(self) -> bool:
        return self.term is not None

    def holds(self, term: Term) -> bool:
        """Whether that very term goes on. Once it does not, it never will again."""
        return self.term is term

    @property
    def deadline(self) -> float:
        """When, on the monotonic clock, the present term ends unless it is renewed."""
        return self._deadline

    @property
    def interval(self) -> float:
        """Seconds until the next `step` should come."""
        return RENEW_SECONDS if self.leading else WATCH_SECONDS

    def step(self) -> bool:
        """Renew, or try to take over. Returns whether this daemon leads. Store faults end no term before its time.

        Raises StoreReplaced: no later step can do better.
        """
        started = self._clock.monotonic()
        try:
            if self._held is not None and self.leading:
                self._renew(self._held, started)
            else:
                self._resign()
                self._campaign(started)
        except (Conflict, AlreadyExists, NotFound, Fenced) as error:
            self._lost(str(error))
        except StoreReplaced:
            self._lost("the store was replaced")
            raise
        except (StoreUnavailable, InvalidObject) as error:
            # A damaged Lease is nobody's to overwrite: without its token no successor could be told from a predecessor.
            log.warning("cannot lead", error=str(error))
        return self.leading

    def release(self) -> None:
        """Give leadership up, so that a standby need not wait. Harmless where it was lost already."""
        held = self._held
        self._resign()
        if held is None:
            return
        spec = held.spec.model_copy(update={"holder_identity": "", "renew_time": timestamp(self._clock.now())})
        try:
            self._client.update(held.replace(spec=spec))
            log.info("gave up leadership", token=spec.token)
        except (Conflict, NotFound, StoreUnavailable) as error:
            log.info("leadership had passed on", error=str(error))

    def depose(self, term: Term | None = None) -> None:
        """End the term at once: a write was refused as fenced, or who works for it has left. With `term`, that one
        only."""
        self._lost("", term)

    def report(self, problems: Sequence[str]) -> None:
        """Say on the Lease whether the leader makes progress, where that changed. For the thread that steps."""
        held, term = self._held, self.term
        if held is None or term is None:
            return
        now = timestamp(self._clock.now())
        reason = LeaderReason.STALLED if problems else LeaderReason.WORKS
        conditions = condition_set(
            held.status.conditions, now, LeaderCondition.PROGRESSING, not problems, reason, "; ".join(problems)
        )
        if conditions == held.status.conditions:
            return
        status = held.status.model_copy(update={"conditions": conditions})
        try:
            told = StoreClient(self._client.store, term.fence).update_status(held.replace(status=status))
        except (Conflict, NotFound, Fenced, StoreUnavailable) as error:
            log.info("could not say how the leader is", error=str(error))
            return
        with self._mutex:
            if self._held is held:
                self._held = told

    def _renew(self, held: Lease, started: float) -> None:
        # Read anew: an earlier renewal may have been written though its answer was lost.
        found = self._client.get(Lease, "", LEADER)
        if (found.uid, found.spec.token) != (held.uid, held.spec.token):
            raise Fenced(f"{found.spec.holder_identity or 'nobody'} leads with token {found.spec.token}")
        spec = found.spec.model_copy(update={"renew_time": timestamp(self._clock.now())})
        renewed = self._client.update(found.replace(spec=spec))
        with self._mutex:
            in_time = self._held is not None and self._clock.monotonic() < self._deadline
            if in_time:
                self._held = renewed
                # Counted from before the write: the standby cannot have seen it any earlier.
                self._deadline = started + LEASE_SECONDS
        if not in_time:
            # Some of its threads may have seen that it was over and left. A new term makes new ones.
            self._lost("the renewal came too late")

    def _campaign(self, started: float) -> None:
        try:
            found = self._client.get(Lease, "", LEADER)
        except NotFound:
            self._lead(self._client.create(self._claim(token=1)), started)
            return
        version = found.metadata.resource_version
        if version != self._seen[0]:
            self._seen = (version, started)
        # Where the holder is this very daemon, its last term is over, and nobody else can have begun one since.
        ours = found.spec.holder_identity == self.identity
        free = ours or not found.spec.holder_identity or self._is_gone(found.spec.holder_process)
        if free or started - self._seen[1] >= found.spec.lease_duration_seconds:
            claim = self._claim(token=found.spec.token + 1)
            self._lead(self._client.update(found.replace(spec=claim.spec)), started)

    def _claim(self, token: int) -> Lease:
        now = timestamp(self._clock.now())
        spec = LeaseSpec(
            holder_identity=self.identity, holder_process=self._process, lease_duration_seconds=LEASE_SECONDS,
            acquire_time=now, renew_time=now, token=token,
        )  # fmt: skip
        return Lease(metadata=ObjectMeta(name=LEADER), spec=spec)

    def _lead(self, lease: Lease, started: float) -> None:
        fence = Fence(namespace="", name=LEADER, token=lease.spec.token)
        with self._mutex:
            self._held = lease
            self._term = Term(fence, int(lease.metadata.resource_version or 0), lease.uid)
            self._deadline = started + LEASE_SECONDS
        log.info("leading", identity=self.identity, token=fence.token)

    def _lost(self, why: str, term: Term | None = None) -> None:
        with self._mutex:
            ended = self._term
            if ended is None or (term is not None and term is not ended):
                return
            lapsed = self._clock.monotonic() >= self._deadline
            self._term = self._held = None
        why = why or ("it was not renewed in time" if lapsed else "another daemon leads, or a worker has left")
        log.warning("lost leadership", identity=self.identity, token=ended.fence.token, why=why)

    def _resign(self) -> None:
        with self._mutex:
            self._term = self._held = None
