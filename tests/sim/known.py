"""Schedules made by hand for faults that the simulation found once, or that chance takes long to come upon."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.sim.schedule import Action, Fault, Program, Schedule
from tests.sim.sharing import action, job


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

OVERUSED_BEFORE_START = a_schedule(
    a_job("early"),
    Action(1.0, "overuse", "early"),
    Fault(0.0, "pause", call="chronos.grant", when="after", seconds=15.0),
)
"""A lease is there, and no program in it: nothing is overused."""

OVERUSED_IN_GRACE = a_schedule(
    a_job("held", program=Program(seconds=30.0, stop_seconds=7.0)),
    Action(5.0, "change", "held", (("suspend", True),)),
    Action(6.0, "overuse", "held"),
    Action(30.0, "change", "held", (("suspend", False),)),
)
"""A program that was asked to end takes more than it leased, and is killed for that."""

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

FAILED_ONCE_BACK = replace(
    a_schedule(
        a_job("parked", limit=1, program=Program(kind="fails", seconds=6.0, fails=1)),
        Action(2.0, "change", "parked", (("park", True),)),
        Action(12.0, "change", "parked", (("park", False),)),
        Fault(15.0, "lag", seconds=20.0),
    ),
    parking_seconds=4.0,
)
"""A program fails after it came back, before anybody has seen that it is back: it failed, and was not lost."""

CUT_WHILE_PARKED = replace(
    a_schedule(
        a_job("parked", checkpoint=True, duration=20.0, program=Program(kind="forever", again=True, seconds=2.0)),
        Action(2.0, "change", "parked", (("park", True),)),
        Fault(4.0, "cut", target="node-1", seconds=130.0, amount=3),
        Action(160.0, "change", "parked", (("park", False),)),
    ),
    parking_seconds=4.0,
)
"""A node is cut off while it parks a program, which then waits in main memory far beyond the end of its lease."""

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


def shared(*parts: Action | Fault, daemons: int = 1, devices: int = 1, parking: float = 0.5, seed: int = 0) -> Schedule:
    return replace(
        a_schedule(*parts, daemons=daemons, seed=seed), devices=devices, parking_seconds=parking, device_gib=1,
        shared=True,
    )  # fmt: skip


TWO_QUEUES = (
    action(0.0, "queue", "qa", quota=[{"devices": 1.0}], minRuntime="5s"),
    action(0.0, "queue", "qb", minRuntime="5s"),
)

BORROWED = shared(
    *TWO_QUEUES,
    job("borrows", 0.1, Program(seconds=30.0, stop_seconds=2.0), queue="qb", checkpoint=True, replicas=2, memory="0.5"),
    job("owns", 8.0, Program(seconds=3.0), queue="qa"),
)
"""A gang borrows a device, and gives it back after a checkpoint."""

PARKED_FOR_ANOTHER = shared(
    action(0.0, "queue", "qa", quota=[{"devices": 1.0}], minRuntime="20s"),
    action(0.0, "queue", "qb", minRuntime="20s"),
    job("borrows", 0.1, Program(seconds=30.0, stop_seconds=2.0), queue="qb", checkpoint=True),
    job("owns", 2.0, Program(seconds=30.0), queue="qa"),
)
"""A job that borrows is parked in time, and comes back."""

BORROWED_BY_WHO_STAYS = shared(
    *TWO_QUEUES,
    job("borrows", 0.1, Program(seconds=20.0), queue="qb", replicas=2, memory="0.5"),
    job("owns", 2.0, Program(seconds=3.0), queue="qa"),
)
"""A job that keeps nothing keeps its share."""

OWNER_GIVES_UP = shared(
    *TWO_QUEUES,
    job("borrows", 0.1, Program(seconds=20.0, stop_seconds=3.5), queue="qb", checkpoint=True, replicas=2, memory="0.5"),
    job("owns", 8.0, Program(seconds=3.0), queue="qa"),
    action(9.0, "delete", "owns"),
)
"""Who came for its share goes away when the other one was asked to end already."""

KEPT_UNSEEN = replace(
    shared(
        action(0.0, "queue", "qa", quota=[{"devices": 1.0}], minRuntime="1s"),
        action(0.0, "queue", "qb", minRuntime="5s"),
        job("borrows", 0.1, Program(seconds=20.0), queue="qb", checkpoint=True, replicas=2, memory="0.5"),
        job("owns", 2.0, Program(seconds=3.0), queue="qa"),
        action(5.0, "delete", "owns"),
    ),
    sluggish=0.8, seed=6,
)  # fmt: skip
"""Who came for its share goes away just before the other one is asked to end, whose controller sees that late."""

BOTH_SURE = shared(
    action(0.0, "queue", "qa", quota=[{"devices": 1.0}], minRuntime="1s"),
    action(0.0, "queue", "qb", quota=[{"devices": 1.0}], minRuntime="1s"),
    job("own", 0.1, Program(seconds=20.0), queue="qb", kill=True, replicas=2, memory="0.5"),
    job("also", 5.0, Program(seconds=3.0), queue="qa"),
)
"""More is promised in quotas than there is: nobody takes what another is sure of."""

YIELDED_ONCE = shared(
    action(0.0, "queue", "qa", quota=[{"devices": 1.0}], minRuntime="5s"),
    action(0.0, "queue", "qb", minRuntime="5s"),
    action(0.0, "queue", "qc", quota=[{"devices": 1.0}], minRuntime="5s"),
    *(
        job(name, 0.1 + n / 10, Program(seconds=60.0), queue=queue, kill=True, memory="0.5")
        for n, (name, queue) in enumerate((("y0", "qc"), ("z0", "qb"), ("y1", "qc"), ("z1", "qb")))
    ),
    job("yields", 1.0, Program(seconds=25.0), queue="qc", checkpoint=True),
    job("owns", 8.0, Program(seconds=60.0), queue="qa"),
    action(14.0, "delete", "y0"),
    action(14.0, "delete", "y1"),
    devices=3,
)
"""A job that had to yield waits, whoever else borrows."""

LIMITED = shared(
    action(0.0, "queue", "qa", limit=[{"devices": 0.5}]),
    *(job(f"j{n}", 0.1, Program(seconds=3.0), queue="qa", memory="0.5") for n in range(2)),
)
"""A queue may hold half a device, and two jobs of it wait."""

FOR_ANN: dict[str, Any] = {"for": {"users": ("ann",)}}

HELD_FOR_ANN = shared(
    action(0.0, "reserve", "r0", start=30.0, duration="20s", devices=1, **FOR_ANN),
    job("bobs", 5.0, Program(seconds=3.0), user="bob"),
    job("anns", 6.0, Program(seconds=3.0), user="ann"),
)
"""A device is held for one user: another one's job waits until that is over."""

RENEWED_UNTIL_HELD = shared(
    action(0.0, "reserve", "r0", start=100.0, duration="20s", devices=1, **FOR_ANN),
    action(1.0, "partition", "p0", memory="0.5", duration=40.0, maximum=300.0),
)
"""A lease that is renewed while nobody waits ends before its device is held for others."""

PROMISED = shared(
    action(0.0, "queue", "qa"),
    job("runs", 0.1, Program(kind="forever"), queue="qa", duration=60.0, memory="0.5", user="ann"),
    job("large", 1.0, Program(seconds=2.0), queue="qa", user="ann"),
    *(
        job(f"b{n}", 3.0 + n, Program(kind="forever"), queue="qa", duration=60.0, memory="0.5", user="bob")
        for n in range(3)
    ),
)
"""A large job is promised a start; small ones do not keep it from it."""

HELD_MEANWHILE = shared(
    action(0.0, "queue", "qa", quota=[{"devices": 1.0}], minRuntime="1s"),
    action(0.0, "queue", "qb"),
    job("runs", 0.1, Program(seconds=40.0), queue="qb", duration=100.0),
    job("waits", 1.0, Program(seconds=2.0), queue="qb"),
    action(10.0, "reserve", "r0", start=60.0, duration="300s", devices=1),
    action(20.0, "delete", "r0"),
)
"""A device is held for nobody, so that a promise has to move, and people are told."""

HELD_FOR_NOBODY: dict[str, Any] = {"nodes": ("node-1",), "for": {}}

HELD_FROM_ITS_OWN = shared(
    *TWO_QUEUES,
    action(0.0, "reserve", "r0", start=20.0, duration="10s", **HELD_FOR_NOBODY),
    job("borrows", 0.1, Program(seconds=2.0), queue="qb", checkpoint=True),
    job("owns", 0.2, Program(seconds=2.0), queue="qa"),
    action(5.0, "reserve", "r1", start=22.0, duration="30s", **HELD_FOR_NOBODY),
)
"""Devices are held for nobody, so that the promise of a job within its quota has to move, for which others move, too:
people are told."""

HELD_TWICE = shared(
    action(0.0, "reserve", "r1", start=22.0, duration="30s", devices=1, **FOR_ANN),
    job("bobs", 0.1, Program(seconds=2.0), queue="qa", user="bob"),
    action(1.0, "reserve", "r0", start=14.0, duration="10s", nodes=("node-1",), **{"for": {"queues": ("qa",)}}),
)
"""A whole node is held for a queue, and what held a device of it before holds it no more: this is said before a job
of the queue gets the device."""

HELD_BY_TWO = shared(
    action(0.0, "reserve", "r0", start=15.0, duration="30s", nodes=("node-1",), **FOR_ANN),
    action(1.0, "reserve", "r1", start=10.0, duration="20s", nodes=("node-1",), **{"for": {"queues": ("qa",)}}),
    job("anns", 2.0, Program(seconds=2.0), queue="qb", user="ann"),
    job("bobs", 3.0, Program(seconds=2.0), queue="qa", user="bob"),
)
"""A node is held for two at the same time: the first of them has it then."""

HELD_IN_ORDER = shared(
    action(0.0, "reserve", "r1", start=20.0, duration="20s", devices=1, **FOR_ANN),
    action(1.0, "reserve", "r0", start=15.0, duration="10s", nodes=("node-1",), **{"for": {"queues": ("qa",)}}),
    job("anns", 5.0, Program(seconds=2.0), queue="qb", user="ann"),
)
"""A whole node is held for one, a device of it for another: who has the whole node goes first."""

SWEEP = shared(
    action(
        0.1, "array", "a0", Program(seconds=1.0), backoff="1s", count=1, duration=600.0, limit=0, priority=0,
        replicas=1, memory="0.5", indexes="0-3", parallelism=1, kept=0, user="ann",
    ),
)  # fmt: skip
"""An array of one job at a time, of which none is kept."""

DROPPED = shared(
    action(
        0.1, "array", "a0", Program(seconds=5.0), backoff="1s", count=1, duration=600.0, limit=0, priority=0,
        replicas=1, memory="0.5", indexes="0-3", parallelism=2, kept=100, user="ann",
    ),
    action(2.0, "drop", "a0", job="a0-1"),
)  # fmt: skip
"""A job of an array is deleted while it runs: its index has failed."""

FAILING_SWEEP = replace(
    SWEEP, actions=tuple(replace(each, program=Program(kind="fails", fails=1, seconds=1.0)) for each in SWEEP.actions)
)
"""An array of which every job fails."""


CHANGED_IN_AN_ARRAY = shared(
    action(
        0.01, "array", "a0", Program(seconds=5.0), backoff="1s", count=1, duration=600.0, limit=0, priority=0,
        replicas=1, memory="0.5", indexes="0-3", parallelism=1, kept=100, user="ann", checkpoint=True,
    ),
    Action(12.0, "change", "a0-2", (("park", True),)),
    Action(14.0, "change", "a0-2", (("park", False),)),
)  # fmt: skip
"""People park a job that an array has made for them, and bring it back: the array's jobs change by no other hand."""


def by_a_schedule(policy: str, seconds: float, *parts: Action | Fault, **fields: object) -> Schedule:
    return shared(
        action(
            1.0, "cron", "c0", Program(seconds=seconds), backoff="1s", count=1, duration=600.0, limit=0, priority=0,
            replicas=1, memory="0.25", minutes=(1, 2), policy=policy, user="ann", **fields,
        ),
        *parts,
    )  # fmt: skip


CRASH_AT_ITS_TIME = by_a_schedule(
    "Allow", 2.0, Fault(119.0, "crash", call="store.write status GPUCronJob", when="after", seconds=1.0)
)
"""The daemon dies just after a job that was due is written."""

LEFT_OUT = by_a_schedule("Forbid", 70.0, deadline=10)
"""The job of the first minute goes on until the second one's deadline is over: that one is left out, and an event
says so."""

LEFT_OUT_BY_A_CLOCK = replace(LEFT_OUT, skews=(7.5, 0.0))
"""The same by a daemon whose clock is ahead."""

JUST_IN_TIME = by_a_schedule("Forbid", 70.0, deadline=40)
"""The job of the first minute ends before the second one's deadline: that one is made then."""

IN_TURN = shared(
    action(0.0, "queue", "qa", turns={"length": "10s"}),
    job("long", 0.1, Program(seconds=150.0), queue="qa"),
    job("short", 1.0, Program(seconds=10.0), queue="qa"),
)
"""Two jobs take turns on one device; the first turn is as long as it is guessed that moves are worth."""

ALONE = shared(
    action(0.0, "queue", "qa", turns={"length": "10s"}),
    job("long", 0.1, Program(seconds=200.0), queue="qa"),
)
"""A job has a device for itself."""

IDLE_BEFORE = shared(
    job("first", 80.0, Program(seconds=30.0), memory="0.5", idle="Release", idle_after=20.0),
)
"""A device did nothing for a while before a job came, and then works."""

IDLE_WHILE_CUT = shared(
    job("idles", 0.1, Program(seconds=180.0, busy_seconds=2.0), memory="0.5", idle="Park", idle_after=65.0),
    action(180.0, "unpark", "idles"),
    Fault(180.0, "cut", target="node-1", seconds=130.0, amount=1),
)
"""An idle job that was parked is asked for, and its node does not answer for longer than it may be idle."""

PARKED_UNSEEN = shared(
    action(0.0, "queue", "qa", quota=[{"devices": 1.0}], minRuntime="1s"),
    action(0.0, "queue", "qb", minRuntime="5s"),
    job("borrows", 0.01, Program(seconds=10.0, stop_seconds=7.0), queue="qb", checkpoint=True, memory="0.5"),
    job("owns", 0.721, Program(seconds=25.0, stop_seconds=3.0), queue="qa", kill=True),
    Fault(6.51, "lag", seconds=30.0),
    parking=4.0,
)
"""A job is parked for another queue's, and the daemon does not see that before the share was to be free."""

PARKED_UNWRITTEN = replace(
    PARKED_UNSEEN,
    faults=(Fault(6.51, "errors", call="store.write create QueueUsage", seconds=15.0, amount=1.0),),
)
"""The same, and what its node did cannot be written for as long."""

QUEUED_AHEAD_FOR_NOTHING = a_schedule(
    a_job("gang", 1.0, duration=20.0, limit=1, memory="0.5", replicas=2, checkpoint=True,
          program=Program(kind="forever", again=True, seconds=0.0)),
    Fault(18.0, "lag", seconds=15.0, amount=0.5),
    Fault(21.3, "reboot", target="node-1"),
)  # fmt: skip
"""The attempt of a gang that was queued ahead is not needed, and the next one has its number."""

FAILED_BEFORE_PARKED = a_schedule(
    a_job("fails", 3.0, program=Program(kind="fails", seconds=0.5, fails=1)),
    Action(5.0, "change", "fails", (("park", True),)),
    Action(5.0, "lose", "fails"),
    Action(5.01, "change", "fails", (("park", False),)),
    Fault(3.4, "reports", seconds=8.0, amount=5.0),
)
"""A program failed, which nobody knew yet when it was parked: its node has nothing to bring back that it could lose."""

NODE_BEHIND = replace(
    a_schedule(
        a_job("saves", 0.01, duration=60.0, memory="1.0", checkpoint=True,
              program=Program(kind="forever", again=True, seconds=52.0)),
    ),
    skews=(10.0, -10.0),
)  # fmt: skip
"""A node's clock is so far behind the daemon's that a lease is over, by the node's own words, before the program is."""

NOTHING_WRONG = {
    "overused-before-start": OVERUSED_BEFORE_START,
    "overused-in-grace": OVERUSED_IN_GRACE,
    "renewed-then-held": RENEWED_THEN_HELD,
    "held-in-turn": HELD_IN_TURN,
    "suspended-before-start": SUSPENDED_BEFORE_START,
    "changed-in-an-array": CHANGED_IN_AN_ARRAY,
    "left-out": LEFT_OUT,
    "left-out-by-a-clock": LEFT_OUT_BY_A_CLOCK,
    "held-by-two": HELD_BY_TWO,
    "parked-unseen": PARKED_UNSEEN,
    "failed-before-parked": FAILED_BEFORE_PARKED,
}
"""Where the simulation itself once went wrong, or the control plane with no one line to blame."""

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
    "back-and-failed-is-lost": (FAILED_ONCE_BACK, "ahead of the truth"),
    "unseen-in-memory-is-dead": (CUT_WHILE_PARKED, "ahead of the truth"),
    "parked-too-early": (PARKED_AND_BACK, "parked"),
    "parked-is-said-to-run": (LONG_PARKED, "parked"),
    "back-by-an-old-token": (BACK_TOO_LATE, "parked"),
    "back-without-a-share": (BACK_WHILE_TAKEN, "parked"),
    "never-back": (BACK_WHILE_TAKEN, "not at rest"),
    "parked-holds": (PARKED_AND_BACK, "not at rest"),
    "leftovers-not-removed": (LEFT_BY_A_SUSPENDED, "not at rest"),
    "limit-not-held": (LIMITED, "limit"),
    "taken-from-its-own": (BOTH_SURE, "reclaim"),
    "taken-at-once": (PARKED_FOR_ANOTHER, "reclaim"),
    "taken-from-who-keeps-nothing": (BORROWED_BY_WHO_STAYS, "reclaim"),
    "taken-without-a-save": (BORROWED, "reclaim"),
    "taken-back-twice": (BORROWED, "reclaim"),
    "spared-too-late": (OWNER_GIVES_UP, "reclaim"),
    "ended-though-kept": (KEPT_UNSEEN, "harm"),
    "yields-and-takes": (YIELDED_ONCE, "reclaim"),
    "mark-outlives-parking": (PARKED_FOR_ANOTHER, "harm"),
    "yielding-not-counted": (BORROWED, "reclaim"),
    "reserved-for-all": (HELD_FOR_ANN, "reserved"),
    "renewed-into-a-reservation": (RENEWED_UNTIL_HELD, "reserved"),
    "promise-not-kept": (PROMISED, "promise"),
    "moved-in-silence": (HELD_MEANWHILE, "promise"),
    "moved-in-silence-within-a-quota": (HELD_FROM_ITS_OWN, "promise"),
    "held-in-silence": (HELD_TWICE, "reserved"),
    "first-come-holds": (HELD_IN_ORDER, "reserved"),
    "forgotten-index-runs-again": (SWEEP, "array"),
    "deleted-index-runs-again": (DROPPED, "made twice"),
    "more-than-parallelism": (DROPPED, "array"),
    "failures-counted-as-success": (FAILING_SWEEP, "array"),
    "cron-in-two-transactions": (CRASH_AT_ITS_TIME, "not at rest"),
    "cron-forbids-nothing": (by_a_schedule("Forbid", 70.0), "cron"),
    "cron-replaces-nothing": (by_a_schedule("Replace", 70.0), "cron"),
    "left-out-too-early": (JUST_IN_TIME, "cron"),
    "left-out-in-silence": (LEFT_OUT, "not at rest"),
    "turn-at-once": (IN_TURN, "turn"),
    "turn-for-nobody": (ALONE, "turn"),
    "idle-before-it-came": (IDLE_BEFORE, "harm"),
    "idle-before-it-came-back": (IDLE_WHILE_CUT, "idle"),
    "parked-is-released": (PARKED_UNWRITTEN, "harm"),
    "gang-bound-in-part": (QUEUED_AHEAD_FOR_NOTHING, "gang"),
    "parked-for-ever": (PARKED_FOR_ANOTHER, "not at rest"),
    "node-clock-believed": (NODE_BEHIND, "not at rest"),
}
"""By the bug: a schedule that shows it, and the oracle that sees it. Chance takes hundreds of seeds to find these."""
