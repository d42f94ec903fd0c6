"""What one simulated run is made of, as plain data: the world, what people do, and what goes wrong.

`generate` makes it from a seed. Everything that is left to chance during the run (which thread goes first, how late a
report is) comes from the same seed, so that a schedule replays exactly; shrinking removes actions and faults from it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

FAULT_SECONDS = 45.0
"""Faults and actions begin within this time; most are over soon after."""

SHORT = 20.0
LONG = 600.0
"""Seconds of a lease that is to run out, and of one that is not."""

GRACE = 4.0


@dataclass(frozen=True)
class Program:
    """What a job's process does. Times in seconds."""

    kind: str = "ok"
    """ok, fails (its first `fails` runs exit with 3), forever (its first run never ends by itself, or all), refused."""
    seconds: float = 2.0
    fails: int = 0
    again: bool = False
    """A job that runs for ever does so only the first time."""
    stop_seconds: float = 0.0
    start_seconds: float = 0.0
    resumes: bool = False
    """It saves before its lease ends, and goes on from there the next time."""
    busy_seconds: float = math.inf
    """So long it has work for its GPU; after that it does nothing there."""


@dataclass(frozen=True)
class Action:
    """One thing that a person does at `at`. `verb`: create, partition, change, delete, release, overuse, cordon,
    lease, lose (what is parked of it does not come back), queue, reserve, array, cron, adjust (an array or a cron job),
    drop (a job that was made by one), unpark."""

    at: float
    verb: str
    name: str
    fields: tuple[tuple[str, Any], ...] = ()
    program: Program | None = None

    def __str__(self) -> str:
        fields = " ".join(f"{key}={value}" for key, value in self.fields)
        return f"{self.at:7.3f}  {self.verb} {self.name} {fields} {self.program or ''}".rstrip()


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong from `at` on.

    At a call (the one after `skip` others, from `at` on, whose name begins with `call`; `when` before or after its
    work): crash, error, pause (of the whole daemon), late (of that call alone: the daemon's other threads go on),
    interleave. For `seconds` from `at`: errors, lag, expire, cut, reboot, reports, notices.
    At once: jump.
    """

    at: float
    kind: str
    call: str = ""
    when: str = "before"
    skip: int = 0
    seconds: float = 0.0
    target: str = ""
    """A node's name, or "" for any; for `cut` which of its ends do not answer: see `amount`."""
    amount: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.at:7.3f}  {self.kind}"]
        if self.call or self.kind in AT_CALLS:
            parts.append(f"{self.when} call {self.skip} of {self.call or 'any'}")
        parts += [f"{name}={getattr(self, name):g}" for name in ("seconds", "amount") if getattr(self, name)]
        return " ".join([*parts, self.target]).rstrip()


AT_CALLS = ("crash", "error", "pause", "late", "interleave")


@dataclass(frozen=True)
class Schedule:
    seed: int
    nodes: int
    devices: int
    daemons: int
    sluggish: float
    """How likely an informer is a moment late with what is new, all the time."""
    skews: tuple[float, ...]
    """Seconds by which wall clocks are wrong: the daemons' hosts first, then the nodes."""
    actions: tuple[Action, ...]
    faults: tuple[Fault, ...] = ()
    parking_seconds: float = 0.0
    """How long nodes take to park a program, and to bring it back."""
    device_gib: int = 16
    shared: bool = False
    """Whether there are queues, reservations, arrays and jobs by a schedule: see `sharing`."""

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"node-{number + 1}" for number in range(self.nodes))

    def end(self) -> float:
        """When the last fault and action are over."""
        times = [action.at for action in self.actions] + [fault.at + fault.seconds + 1 for fault in self.faults]
        return max([FAULT_SECONDS / 3, *times])


CALLS = (
    "store.write status GPUJob", "store.write status GPUJob", "store.write status GPUPartition",
    "store.write status GPUPartition", "store.write update GPUPartition", "store.write update GPUJob",
    "store.write delete", "store.write status GPUNode", "store.write update Lease", "store.write", "store.read GPUJob",
    "store.read GPUPartition", "store.read Lease", "store.read", "backend.start", "backend.start", "backend.stop",
    "backend.remove", "backend.get", "backend.list", "backend.purge", "chronos.grant", "chronos.grant",
    "chronos.release", "chronos.get", "chronos.list", "chronos.devices", "chronos.renew", "",
)  # fmt: skip
"""Where faults strike, by the beginning of the call's name: each write and each call of a node and of the backend."""

LOOKS = ("chronos.list", "chronos.list", "chronos.get", "backend.list", "backend.get", "store.read")


def generate(seed: int) -> Schedule:
    """The schedule of a seed: small worlds, short stories, a few faults."""
    rng = random.Random(seed)
    nodes, devices = rng.choice((1, 1, 2, 2, 3)), rng.choice((1, 1, 2))
    daemons = rng.choice((1, 1, 2))
    sluggish = rng.choice((0.0, 0.3, 0.8))
    actions = _actions(rng, nodes, devices)
    worst = rng.choice((0.0, 0.0, 4.0, 10.0))
    skews = tuple(round(rng.uniform(-worst, worst), 1) for _ in range(daemons + nodes))
    moments = [action.at for action in actions]
    faults = [fault_of(rng, nodes, moments) for _ in range(rng.choice((0, 1, 2, 3, 5, 8, 12)))]
    parks, parking_faults, parking_seconds = _parks(
        seed, actions, clocks_right=not worst and all(fault.kind != "jump" for fault in faults)
    )
    actions = tuple(sorted((*actions, *_overuses(seed, actions), *parks), key=lambda action: action.at))
    faults = sorted((*faults, *parking_faults), key=lambda f: f.at)
    return Schedule(seed, nodes, devices, daemons, sluggish, skews, actions, tuple(faults), parking_seconds)


def _parks(seed: int, actions: tuple[Action, ...], *, clocks_right: bool) -> tuple[list[Action], list[Fault], float]:
    """In some worlds people park jobs and bring them back, some of which are lost on their way, and a job is parked
    whenever its lease ends: where clocks are right, since a wrong one may park it too late. By chance of its own:
    the rest of the world stays."""
    rng = random.Random(f"park {seed}")
    seconds = rng.choice((0.0, 0.5, 4.0))
    alone = [a for a in actions if a.verb == "create" and not _is_gang(a)]
    if rng.random() > 0.35:
        return [], [], seconds
    made: list[Action] = []
    if rng.random() < 0.4 and clocks_right:
        fields = {
            "backoff": "1s", "checkpoint": True, "count": 1, "duration": SHORT, "limit": 0, "memory": "0.25",
            "parks": True, "priority": 0, "replicas": 1,
        }  # fmt: skip
        made.append(
            Action(_at(rng), "create", "pk", tuple(sorted(fields.items())), Program(seconds=25.0, resumes=True))
        )
    for action in alone:
        at = action.at
        for _ in range(rng.choice((0, 1, 1, 2))):
            at = round(at + rng.choice((0.5, rng.uniform(0, 8))), 3)
            made.append(Action(at, "change", action.name, (("park", True),)))
            if rng.random() < 0.15:
                made.append(Action(at, "lose", action.name))
            at = round(at + rng.choice((0.01, rng.uniform(0, 20))), 3)
            made.append(Action(at, "change", action.name, (("park", False),)))
    faults = []
    for _ in range(rng.choice((0, 1, 2, 3))):
        call = rng.choice(("chronos.park", "chronos.unpark", "chronos.get", "store.write status GPUPartition"))
        fault = _at_call(rng, round(rng.choice(made).at if made else 0.0, 3), rng.choice(("crash", "error", "pause")))
        faults.append(replace(fault, call=call, skip=rng.choice((0, 0, 1)), seconds=rng.choice((0.2, 2.0, 15.0))))
    return made, faults, seconds


def _is_gang(action: Action) -> bool:
    fields = dict(action.fields)
    return bool(fields["replicas"] != 1 or fields["count"] != 1)


def _overuses(seed: int, actions: tuple[Action, ...]) -> list[Action]:
    """In some worlds a job takes more of a GPU than it leased. By chance of its own: the rest of the world stays."""
    rng = random.Random(f"overuse {seed}")
    created = [action for action in actions if action.verb == "create"]
    if rng.random() > 0.15:
        return []
    return [
        Action(round(action.at + rng.uniform(0, 8), 3), "overuse", action.name)
        for action in created
        if rng.random() < 0.5
    ]


def _actions(rng: random.Random, nodes: int, devices: int) -> tuple[Action, ...]:
    made: list[Action] = []
    for number in range(rng.choice((1, 1, 2, 2, 3, 4, 5))):
        name = f"j{number}"
        made.append(_create(rng, name, _at(rng), devices))
        made += _life(rng, name, made[-1].at, devices)
    for number in range(rng.choice((0, 0, 0, 1, 2))):
        made += _partition(rng, f"p{number}")
    if rng.random() < 0.15:
        made.append(_foreign(rng, nodes, devices))
    if rng.random() < 0.1:
        at, node = _at(rng), f"node-{rng.randint(1, nodes)}"
        made.append(Action(at, "cordon", node, (("unschedulable", True),)))
        made.append(Action(round(at + rng.uniform(1, 20), 3), "cordon", node, (("unschedulable", False),)))
    return tuple(sorted(made, key=lambda action: action.at))


def _at(rng: random.Random) -> float:
    return round(rng.choice((0.0, rng.uniform(0, 5), rng.uniform(0, FAULT_SECONDS / 2))), 3)


def _create(rng: random.Random, name: str, at: float, devices: int) -> Action:
    kind = rng.choice(("ok", "ok", "ok", "fails", "forever", "forever", "refused"))
    again = rng.random() < 0.5
    program = Program(
        kind=kind,
        seconds=rng.choice((0.0, 0.5, 2.0, 6.0)),
        fails=rng.choice((1, 1, 2)) if kind == "fails" else 0,
        again=again and kind == "forever",
        stop_seconds=rng.choice((0.0, 0.0, 1.0, GRACE + 3)),
        start_seconds=rng.choice((0.0, 0.0, 1.0)),
    )
    fields: dict[str, Any] = {
        "memory": rng.choice(("0.25", "0.5", "0.6", "1.0")),
        "duration": SHORT if kind == "forever" else LONG,
        "count": rng.choice((1, 1, devices)),
        "replicas": rng.choice((1, 1, 1, 2, 3)),
        "priority": rng.choice((0, 0, 0, 5)),
        "limit": rng.choice((0, 1, 2)),
        "backoff": rng.choice(("1s", "3s")),
    }
    if program.again:
        fields["checkpoint"] = True
    if rng.random() < 0.1:
        fields["ttl"] = "5s"
    if rng.random() < 0.1:
        fields["suspend"] = True
    return Action(at, "create", name, tuple(sorted(fields.items())), program)


def _life(rng: random.Random, name: str, at: float, devices: int) -> list[Action]:
    """What is done with a job once it is there."""
    made = []
    suspended = False
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        at = round(at + rng.choice((0.01, rng.uniform(0, 4), rng.uniform(0, 15))), 3)
        verb = rng.choice(("suspend", "suspend", "delete", "change", "release"))
        if verb == "suspend":
            suspended = not suspended
            made.append(Action(at, "change", name, (("suspend", suspended),)))
        elif verb == "change":
            made.append(Action(at, "change", name, (("priority", rng.randint(-5, 5)),)))
        elif verb == "release":
            made.append(Action(at, "release", name))
        else:
            made.append(Action(at, "delete", name))
            suspended = False
            if rng.random() < 0.4:
                at = round(at + rng.choice((0.01, rng.uniform(0, 10))), 3)
                made.append(_create(rng, name, at, devices))
    if rng.random() < 0.7 or suspended:
        # Most stories end with the job allowed to run, so that its end is known.
        made.append(Action(round(at + rng.uniform(0, 10), 3), "change", name, (("suspend", False),)))
    return made


def _partition(rng: random.Random, name: str) -> list[Action]:
    fields: dict[str, Any] = {"memory": rng.choice(("0.25", "0.5")), "duration": rng.choice((SHORT, SHORT * 2))}
    if rng.random() < 0.3:
        fields["maximum"] = SHORT * 3
    at = _at(rng)
    made = [Action(at, "partition", name, tuple(sorted(fields.items())))]
    if rng.random() < 0.4:
        made.append(Action(round(at + rng.uniform(0, 15), 3), "delete", name))
    return made


def _foreign(rng: random.Random, nodes: int, devices: int) -> Action:
    fields = (
        ("device", rng.randrange(devices)),
        ("memory", rng.choice((0.3, 0.5, 1.0))),
        ("seconds", rng.choice((10.0, 30.0))),
    )
    return Action(_at(rng), "lease", f"node-{rng.randint(1, nodes)}", fields)


def fault_of(rng: random.Random, nodes: int, moments: list[float]) -> Fault:
    """Most faults come soon after something was done, when the daemons have much to do."""
    soon = max(0.0, rng.choice(moments) + rng.choice((0.0, 0.0, 0.001, 0.5, 2.0, SHORT, rng.uniform(0, 8))))
    at = round(rng.choice((soon, soon, soon, rng.uniform(0, FAULT_SECONDS))), 3)
    node = f"node-{rng.randint(1, nodes)}"
    while_ = rng.choice((0.5, 3.0, 8.0, 15.0, 45.0))
    match rng.choice(_KINDS):
        case "crash":
            return _at_call(rng, at, "crash", seconds=rng.choice((0.0, 0.2, 2.0, 10.0)))
        case "error":
            return _at_call(rng, at, "error")
        case "pause":
            held = _at_call(rng, at, "pause", seconds=rng.choice((0.05, 1.0, 7.0, 15.0, 15.0, 25.0)))
            # Half of them just before a look at the world, which then is newer than what the daemon knows.
            return replace(held, call=rng.choice(LOOKS), when="before") if rng.random() < 0.5 else held
        case "late":
            # A renewal that comes too late, by little or much; or any other call.
            held = _at_call(rng, at, "late", seconds=rng.choice((4.1, 4.2, 4.4, 5.5, 9.0)))
            return replace(held, call="store.write update Lease", skip=0) if rng.random() < 0.7 else held
        case "interleave":
            return _at_call(rng, at, "interleave", amount=rng.choice((1, 3, 8, 20)))
        case "errors":
            return Fault(at, "errors", call=rng.choice(CALLS), seconds=while_, amount=rng.choice((0.1, 0.5, 1.0)))
        case "lag":
            return Fault(at, rng.choice(("lag", "expire")), seconds=while_, amount=rng.choice((0.0, 0.5)))
        case "cut":
            while_ = rng.choice((1.0, 8.0, 45.0, 100.0, 130.0))
            return Fault(at, "cut", seconds=while_, target=node, amount=rng.choice((1, 2, 3, 3)))
        case "reboot":
            return Fault(at, "reboot", seconds=rng.choice((0.0, 5.0, 50.0)), target=node)
        case "reports":
            return Fault(at, "reports", seconds=while_, amount=rng.choice((1.0, 5.0)))
        case "notices":
            return Fault(at, "notices", seconds=while_, amount=rng.choice((0.3, 1.0)))
        case _:
            return Fault(at, "jump", target=rng.choice((node, "")), amount=rng.choice((-5.0, 2.0, 5.0)))


_KINDS = (
    "crash", "crash", "crash", "error", "error", "error", "pause", "pause", "pause", "late", "late",
    "interleave", "interleave",
    "errors", "lag", "lag", "lag", "cut", "cut", "cut", "cut", "reboot", "reports", "notices", "jump",
)  # fmt: skip


def _at_call(rng: random.Random, at: float, kind: str, *, seconds: float = 0.0, amount: float = 0.0) -> Fault:
    when, skip = rng.choice(("before", "after", "after")), rng.choice((0, 0, 1, 2, 5))
    return Fault(
        at, kind, call=rng.choice(CALLS), when=when, skip=skip,
        seconds=seconds, amount=amount,
    )  # fmt: skip
