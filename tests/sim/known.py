"""Schedules made by hand for faults that the simulation found once, or that chance takes long to come upon."""

from __future__ import annotations

from dataclasses import replace

from tests.sim.schedule import Action, Fault, Program, Schedule


def a_job(name: str, at: float = 0.0, *, program: Program | None = None, **fields: object) -> Action:
    given = {
        "backoff": "1s", "count": 1, "duration": 600.0, "limit": 0, "memory": "0.25", "priority": 0, "replicas": 1,
    } | fields  # fmt: skip
    return Action(at, "create", name, tuple(sorted(given.items())), program or Program())


def a_schedule(*parts: Action | Fault, daemons: int = 1, nodes: int = 1, seed: int = 0) -> Schedule:
    return Schedule(
        seed=seed, nodes=nodes, devices=1, daemons=daemons, sluggish=0.0, skews=(0.0,) * (daemons + nodes),
        actions=tuple(part for part in parts if isinstance(part, Action)),
        faults=tuple(part for part in parts if isinstance(part, Fault)),
    )  # fmt: skip


LATE_START = a_schedule(
    a_job("late", program=Program(kind="forever", again=True, seconds=1.0), duration=20.0, checkpoint=True),
    Fault(0.0, "pause", call="backend.start", seconds=55.0),
)
"""A start is held up until its lease is over: that is not the job's failure."""

STALE_SWEEP = a_schedule(
    a_job("old", program=Program(seconds=30.0)),
    a_job("new", 66.0, program=Program(seconds=30.0)),
    Fault(59.5, "pause", call="chronos.list", seconds=15.0),
    daemons=2,
)
"""A sweep is held up while another daemon takes over: the leases of that one's jobs are no leftovers."""

CUT_AT_START = a_schedule(
    a_job("cut"),
    Fault(0.0, "cut", target="node-1", seconds=8.0, amount=2),
)
"""The node grants the lease, but its backend does not answer for a while: the start is tried again soon after."""


HELD_WHILE_CUT = a_schedule(
    a_job("held", program=Program(kind="forever")),
    Action(5.0, "change", "held", (("suspend", True),)),
    Fault(3.0, "cut", target="node-1", seconds=45.0, amount=3),
)
"""A job is suspended while its node does not answer: it is not said to be before its workload has ended."""

GONE_UNSEEN = a_schedule(
    Action(0.0, "lease", "node-1", (("device", 0), ("memory", 1.0), ("seconds", 10.0))),
    Action(1.0, "partition", "waits", (("duration", 20.0), ("memory", "0.5"))),
    Action(6.0, "delete", "waits"),
    a_job("next", 20.0, memory="1.0"),
    Fault(5.0, "expire", seconds=8.0),
)
"""A partition is deleted where the watch does not tell: the relist shows that it is gone, and its share is free."""

ASKED_LATE = a_schedule(
    a_job("held"),
    Action(1.0, "change", "held", (("suspend", True),)),
    Fault(0.0, "pause", call="chronos.grant", seconds=15.0),
    daemons=2,
    seed=1,
)
"""A deposed daemon asks for a lease that nobody wants any more: the next sweep gives it back."""

DELETED_BEFORE_START = replace(
    a_schedule(
        a_job("j1", memory="1.0", replicas=2, program=Program(seconds=0.0, stop_seconds=7.0, start_seconds=1.0)),
        a_job("j2", backoff="3s", count=2, memory="1.0", ttl="5s",
              program=Program(seconds=0.0, stop_seconds=1.0, start_seconds=1.0)),
        Action(0.01, "delete", "j1", (), None),
        a_job("j1", 0.02, backoff="3s", count=2, limit=2, memory="0.5",
              program=Program(kind="fails", seconds=6.0, fails=2, start_seconds=1.0)),
        Action(0.03, "change", "j1", (("suspend", True),), None),
        Action(1.341, "change", "j1", (("suspend", False),), None),
        Action(2.008, "partition", "p0", (("duration", 40.0), ("maximum", 60.0), ("memory", "0.25")), None),
        a_job("j0", 2.338, count=2, memory="0.5", program=Program(seconds=0.0)),
        Action(2.581, "change", "j0", (("priority", -2),), None),
        Action(2.591, "delete", "j0", (), None),
        Fault(0.0, "notices", seconds=45.0, amount=0.3),
        seed=0,
    ),
    nodes=2, devices=2, sluggish=0.3, skews=(0.0,) * 3,
)  # fmt: skip
"""A job is deleted between the look at its partitions and the start, by people whom the informer is late to tell of."""

RELEASED_IN_GRACE = a_schedule(
    a_job("held", program=Program(seconds=30.0, stop_seconds=7.0), limit=1),
    Action(5.0, "release", "held"),
)
"""A partition is deleted whose workload takes a while to end: it stays until then."""

RENEWED_THEN_HELD = a_schedule(
    Action(0.0, "partition", "p0", (("duration", 20.0), ("maximum", 60.0), ("memory", "0.5"))),
    Fault(2.0, "pause", call="chronos.renew", when="after", seconds=25.0),
    Fault(31.0, "lag", seconds=1.0),
)
"""A node renews a lease, and its answer is held up until the lease's old end is past: the new end counts."""

HELD_IN_TURN = a_schedule(
    Fault(1.692, "late", call="store.write update Lease", seconds=4.1),
    Fault(4.551, "late", call="store.write update Lease", when="after", seconds=9.0),
    daemons=2,
)
"""One daemon's renewal is late, then the other's: the first is due meanwhile, and can do nothing."""

SUSPENDED_BEFORE_START = a_schedule(
    a_job("j0", 14.647, backoff="3s", limit=1, memory="0.6", replicas=3, priority=5,
          program=Program(seconds=0.5, start_seconds=1.0)),
    Action(25.456, "change", "j0", (("suspend", True),), None),
    Fault(14.647, "pause", call="backend.start", skip=1, seconds=15.0),
    nodes=3,
)  # fmt: skip
"""A held-up daemon starts the rest of a gang that people suspended meanwhile: its end is wanted."""

NOTHING_WRONG = {
    "renewed-then-held": RENEWED_THEN_HELD,
    "held-in-turn": HELD_IN_TURN,
    "suspended-before-start": SUSPENDED_BEFORE_START,
}
"""Where the simulation itself once went wrong."""

LATE_RENEWAL = a_schedule(Fault(19.078, "late", call="store.write update Lease", when="after", seconds=4.2), seed=0)
"""The answer to a renewal comes when the term is over: that term is not led again."""

CHANGED_AT_START = replace(
    a_schedule(
        a_job("j3", 0.4, backoff="3s", checkpoint=True, duration=20.0, memory="0.6", replicas=2,
              program=Program(kind="forever", again=True)),
        Action(3.137, "delete", "j3"),
        a_job("j2", 4.435, backoff="3s", memory="0.6", priority=5, replicas=3,
              program=Program(kind="fails", seconds=0.5, fails=2, stop_seconds=1.0)),
        Action(4.445, "change", "j2", (("suspend", True),)),
        seed=0,
    ),
    devices=2,
    sluggish=0.8,
)  # fmt: skip
"""A job is suspended between the read and the write that gives it its finalizer."""

LEFT_BY_A_SUSPENDED = a_schedule(
    a_job("j2", backoff="3s", duration=20.0, memory="0.6",
          program=Program(kind="forever", seconds=6.0, stop_seconds=1.0)),
    a_job("j0", 5.762, limit=2, memory="0.5", program=Program(seconds=6.0)),
    a_job("j3", 7.639, backoff="3s", duration=20.0, memory="0.6", ttl="5s",
          program=Program(kind="forever", stop_seconds=1.0)),
    Action(7.782, "change", "j0", (("suspend", True),)),
    Action(20.988, "change", "j0", (("suspend", False),)),
    Fault(44.262, "notices", seconds=45.0, amount=1.0),
    seed=66,
)  # fmt: skip
"""Nobody is told that a workload has ended: the sweep finds it."""

HELD_AT_THE_END = a_schedule(
    a_job("held", checkpoint=True, duration=20.0, memory="0.5", program=Program(kind="forever", stop_seconds=3.0)),
    Action(17.0, "change", "held", (("suspend", True),)),
)
"""A job is suspended when its next attempt is queued already: that one is not needed, and begins nothing."""

PARKED_AND_BACK = replace(
    a_schedule(
        a_job("parked", memory="1.0", program=Program(seconds=6.0)),
        Action(2.0, "change", "parked", (("park", True),)),
        a_job("other", 4.0, memory="1.0", program=Program(seconds=30.0)),
        Action(40.0, "change", "parked", (("park", False),)),
    ),
    parking_seconds=4.0,
)
"""A job is parked, another has its share meanwhile, and it comes back once that has ended."""

LONG_PARKED = a_schedule(
    a_job("parked", memory="1.0", program=Program(seconds=6.0)),
    Action(2.0, "change", "parked", (("park", True),)),
    Action(70.0, "change", "parked", (("park", False),)),
)
"""A job is parked for a while, and its status says so."""

BACK_TOO_LATE = a_schedule(
    a_job("parked", memory="1.0", program=Program(seconds=60.0)),
    Action(2.0, "change", "parked", (("park", True),)),
    Action(10.0, "change", "parked", (("park", False),)),
    Action(40.0, "change", "parked", (("park", True),)),
    Action(60.0, "change", "parked", (("park", False),)),
    Fault(10.0, "pause", call="chronos.unpark", seconds=40.0),
    daemons=2,
)
"""A daemon that was held up brings back a program that was brought back by another, and parked again meanwhile."""

BACK_WHILE_TAKEN = replace(
    a_schedule(
        a_job("parked", memory="0.5", program=Program(seconds=6.0)),
        Action(2.0, "change", "parked", (("park", True),)),
        Action(12.0, "change", "parked", (("park", False),)),
    ),
    parking_seconds=0.5,
)
"""A job is parked and brought back: its share is asked for first."""

FOUND: dict[str, tuple[Schedule, str]] = {
    "late-start-blamed": (LATE_START, "ahead of the truth"),
    "absence-from-the-cache": (STALE_SWEEP, "harm"),
    "start-given-up": (CUT_AT_START, "not at rest"),
    "unreachable-is-dead": (HELD_WHILE_CUT, "ahead of the truth"),
    "no-second-look": (DELETED_BEFORE_START, "started too late"),
    "no-sweep": (ASKED_LATE, "leak"),
    "hand-over-too-early": (HELD_AT_THE_END, "ahead of the truth"),
    "next-attempt-left-behind": (HELD_AT_THE_END, "leak"),
    "relist-keeps-the-gone": (GONE_UNSEEN, "livelock"),
    "finalizer-too-early": (RELEASED_IN_GRACE, "gone too early"),
    "lapsed-term-revives": (LATE_RENEWAL, "revived"),
    "blind-write": (CHANGED_AT_START, "lost change"),
    "parked-too-early": (PARKED_AND_BACK, "parked"),
    "parked-is-said-to-run": (LONG_PARKED, "parked"),
    "back-by-an-old-token": (BACK_TOO_LATE, "parked"),
    "back-without-a-share": (BACK_WHILE_TAKEN, "parked"),
    "never-back": (BACK_WHILE_TAKEN, "not at rest"),
    "parked-holds": (PARKED_AND_BACK, "not at rest"),
    "leftovers-not-removed": (LEFT_BY_A_SUSPENDED, "not at rest"),
}
"""By the bug: a schedule that shows it, and the oracle that sees it. Chance takes hundreds of seeds to find these."""
