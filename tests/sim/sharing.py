"""Schedules of worlds that people share: queues with quotas and limits, reservations, arrays, jobs by a schedule,
turns, and jobs that do nothing. Each story ends by itself, whatever goes wrong."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from tests.sim.schedule import LONG, SHORT, Action, Fault, Program, Schedule, fault_of

THEMES = ("quota", "quota", "quota", "reservation", "reservation", "array", "array", "cron", "turns", "idle")
USERS = ("ann", "bob")
QUEUES = ("qa", "qb")

IDLE_SECONDS = 70.0
"""After so much a node says that a device does nothing, and a little more."""

CALLS = (
    "store.write status GPUPartition", "store.write status GPUPartition", "store.write update GPUPartition",
    "store.write status Reservation", "store.write create QueueUsage", "store.write update QueueUsage",
    "store.write status GPUJobArray", "store.write status GPUJobArray", "store.write status GPUCronJob",
    "store.write status GPUCronJob", "store.write create Event", "store.read QueueUsage", "chronos.park",
    "chronos.unpark", "chronos.renew", "backend.stop", "backend.stop",
)  # fmt: skip
"""Where faults strike beside those of all worlds."""


def generate(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(f"shared {seed}")
    nodes, devices = rng.choice((1, 1, 2)), rng.choice((1, 1, 2))
    theme = rng.choice(THEMES)
    story = _STORIES[theme](rng, nodes, devices)
    if theme in ("quota", "reservation") and rng.random() < 0.3:
        story += _array(rng, "a0", _at(rng), queue=rng.choice(QUEUES))
    if rng.random() < 0.25:
        story += _parks(rng, story)
    queues = _queues(rng, nodes * devices, story, theme)
    worst = rng.choice((0.0, 0.0, 0.0, 4.0, 10.0)) if theme != "turns" else 0.0
    daemons = rng.choice((1, 1, 2))
    skews = tuple(round(rng.uniform(-worst, worst), 1) for _ in range(daemons + nodes))
    moments = [action.at for action in story]
    faults = [_fault(rng, nodes, moments) for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8)))]
    return Schedule(
        seed, nodes, devices, daemons, rng.choice((0.0, 0.3, 0.8)), skews,
        tuple(sorted((*queues, *story), key=lambda action: action.at)),
        tuple(sorted(faults, key=lambda fault: fault.at)),
        parking_seconds=rng.choice((0.0, 0.5, 4.0)), device_gib=1, shared=True,
    )  # fmt: skip


def job(name: str, at: float, program: Program, **fields: Any) -> Action:
    given = {
        "backoff": "1s", "count": 1, "duration": LONG, "limit": 0, "memory": "1.0", "priority": 0, "replicas": 1,
    } | fields  # fmt: skip
    return Action(at, "create", name, tuple(sorted(given.items())), program)


def action(at: float, verb: str, name: str, program: Program | None = None, **fields: Any) -> Action:
    return Action(at, verb, name, tuple(sorted(fields.items())), program)


def _at(rng: random.Random) -> float:
    return round(rng.choice((0.01, rng.uniform(0.01, 5), rng.uniform(0.01, 20))), 3)


def _some_job(rng: random.Random, name: str, at: float, **fields: Any) -> Action:
    kind = rng.choice(("ok", "ok", "ok", "ok", "fails", "forever"))
    longest = 10.0 if kind == "forever" else 25.0
    program = Program(
        kind=kind, seconds=rng.choice((0.5, 2.0, 10.0, longest)), fails=1 if kind == "fails" else 0,
        again=kind == "forever", stop_seconds=rng.choice((0.0, 1.0, 3.0, 7.0)),
        start_seconds=rng.choice((0.0, 0.0, 1.0)),
    )  # fmt: skip
    given: dict[str, Any] = {
        "memory": rng.choice(("0.25", "0.5", "1.0", "1.0")), "replicas": rng.choice((1, 1, 1, 1, 2)),
        "limit": rng.choice((0, 1)), "queue": rng.choice(QUEUES), "user": rng.choice(USERS),
    }  # fmt: skip
    if kind == "forever":
        given |= {"checkpoint": True, "duration": SHORT}
    elif (yields := rng.choice(("saves", "saves", "killed", "stays"))) != "stays":
        given["checkpoint" if yields == "saves" else "kill"] = True
    return job(name, at, program, **(given | fields))


def _quota(rng: random.Random, nodes: int, devices: int) -> list[Action]:
    """Some borrow, and others come for what is theirs."""
    made = [_some_job(rng, f"j{n}", _at(rng)) for n in range(rng.choice((2, 3, 3, 4)))]
    made = [_within(each, nodes * devices) for each in made]
    if rng.random() < 0.3:
        gone = rng.choice(made)
        made.append(action(round(gone.at + rng.uniform(0, 15), 3), "delete", gone.name))
    if rng.random() < 0.2:
        name = rng.choice(made).name
        made.append(action(round(rng.uniform(5, 20), 3), "change", name, priority=rng.choice((-5, 5))))
    return made


def _reservation(rng: random.Random, nodes: int, devices: int) -> list[Action]:
    made = _quota(rng, nodes, devices)
    for number in range(rng.choice((1, 1, 2))):
        for_ = rng.choice(({"queues": ("qa",)}, {"users": ("ann",)}, {}))
        which: dict[str, Any] = {"devices": 1} if nodes > 1 or rng.random() < 0.5 else {"nodes": ("node-1",)}
        which["for"] = for_
        start, lasts = round(rng.uniform(10, 50), 1), rng.choice((10, 30))
        made.append(action(
            rng.choice((0.0, _at(rng))), "reserve", f"r{number}", start=start, duration=f"{lasts}s", **which,
        ))  # fmt: skip
        if rng.random() < 0.2:
            made.append(action(round(rng.uniform(5, 30), 3), "delete", f"r{number}"))
    if rng.random() < 0.3:
        made.append(action(_at(rng), "partition", "p0", memory="0.25", duration=SHORT, maximum=SHORT * 3))
    return made


def _arrays(rng: random.Random, nodes: int, devices: int) -> list[Action]:
    made = _array(rng, "a0", _at(rng), queue=rng.choice(QUEUES))
    if rng.random() < 0.4:
        made.append(_within(_some_job(rng, "j0", _at(rng)), nodes * devices))
    return made


def _array(rng: random.Random, name: str, at: float, **fields: Any) -> list[Action]:
    indexes = rng.choice(("0-3", "0-5", "1,3,5", "0-6:2"))
    program = Program(
        kind=rng.choice(("ok", "ok", "ok", "fails")), seconds=rng.choice((0.5, 2.0, 5.0)), fails=1,
        stop_seconds=rng.choice((0.0, 1.0)),
    )  # fmt: skip
    program = replace(program, fails=program.fails if program.kind == "fails" else 0)
    given: dict[str, Any] = {
        "backoff": "1s", "count": 1, "duration": LONG, "limit": rng.choice((0, 1)), "priority": 0, "replicas": 1,
        "memory": rng.choice(("0.25", "0.5", "1.0")), "indexes": indexes, "parallelism": rng.choice((1, 2, 3)),
        "kept": rng.choice((0, 1, 100)), "user": rng.choice(USERS), "checkpoint": rng.random() < 0.5,
    } | fields  # fmt: skip
    made = [action(at, "array", name, program, **given)]
    then = round(at + rng.uniform(0, 10), 3)
    match rng.choice(("", "", "", "suspend", "drop", "delete", "named")):
        case "suspend":
            made.append(action(then, "adjust", name, suspend=True))
            made.append(action(round(then + rng.uniform(0, 15), 3), "adjust", name, suspend=False))
        case "drop":
            made.append(action(then, "drop", name, job=f"{name}-{rng.choice((0, 1, 2, 3))}"))
        case "delete":
            made.append(action(then, "delete", name))
        case "named":
            # Somebody else's job has the name of one of its own.
            other = f"{name}-{rng.choice((1, 2, 3))}"
            made.append(job(other, 0.0, Program(seconds=2.0), memory="0.25", queue="qa"))
            made.append(action(then, "delete", other))
    return made


def _cron(rng: random.Random, nodes: int, devices: int) -> list[Action]:
    seconds = rng.choice((2.0, 20.0, 70.0))
    given: dict[str, Any] = {
        "backoff": "1s", "count": 1, "duration": LONG, "limit": 0, "priority": 0, "replicas": 1, "memory": "0.25",
        "minutes": (1, 2), "policy": rng.choice(("Allow", "Forbid", "Replace")), "user": "ann",
        "checkpoint": rng.random() < 0.5,
    }  # fmt: skip
    if rng.random() < 0.3:
        given["deadline"] = rng.choice((10, 40))
    made = [action(_at(rng), "cron", "c0", Program(seconds=seconds), **given)]
    at = rng.choice((58.0, 60.0, 61.0, 100.0))
    match rng.choice(("", "", "suspend", "delete")):
        case "suspend":
            made.append(action(at, "adjust", "c0", suspend=True))
            made.append(action(at + rng.choice((3.0, 65.0)), "adjust", "c0", suspend=False))
        case "delete":
            made.append(action(at, "delete", "c0"))
        case _:
            made.append(job("j0", at, Program(seconds=1.0), memory="0.25"))
    return made


def _turns(rng: random.Random, nodes: int, devices: int) -> list[Action]:
    """More want a GPU than fit. The first turn is as long as moves are guessed to take, the next as they took."""
    seconds = [rng.choice((20.0, 130.0)) for _ in range(nodes * devices + 1)]
    return [
        job(f"j{n}", _at(rng), Program(seconds=each), queue="qa", user=rng.choice(USERS))
        for n, each in enumerate(seconds)
    ]


def _idle(rng: random.Random, nodes: int, devices: int) -> list[Action]:
    """A program computes, and then does nothing for longer than a node takes to say so, but not for ever."""
    at, after = _at(rng), rng.choice((20.0, 65.0))
    busy = rng.choice((2.0, 10.0))
    what = rng.choice(("Park", "Release", "Report"))
    program = Program(seconds=busy + IDLE_SECONDS + 8.0, busy_seconds=busy, stop_seconds=1.0)
    made = [job("j0", at, program, memory="0.5", queue="qa", idle=what, idle_after=after)]
    if rng.random() < 0.4:
        made.append(job("j1", _at(rng), Program(seconds=rng.choice((5.0, 40.0))), memory="0.5", queue="qa"))
    made += [action(seconds, "unpark", "j0") for seconds in (120.0, 180.0, 260.0) if what == "Park"]
    return made


_STORIES = {
    "quota": _quota, "reservation": _reservation, "array": _arrays, "cron": _cron, "turns": _turns, "idle": _idle,
}  # fmt: skip


def _parks(rng: random.Random, story: list[Action]) -> list[Action]:
    """People park some of the jobs, and bring them back."""
    made = []
    for each in story:
        fields = dict(each.fields)
        if each.verb == "create" and fields["replicas"] == 1 and rng.random() < 0.5:
            at = round(each.at + rng.uniform(0, 10), 3)
            made.append(action(at, "change", each.name, park=True))
            made.append(action(round(at + rng.uniform(0, 20), 3), "change", each.name, park=False))
    return made


def _within(each: Action, devices: int) -> Action:
    """A gang that fits into the world."""
    fields = dict(each.fields)
    if fields["replicas"] * float(fields["memory"]) > devices:
        fields["replicas"] = 1
    return replace(each, fields=tuple(sorted(fields.items())))


def _queues(rng: random.Random, devices: int, story: list[Action], theme: str) -> list[Action]:
    """Each has room for the largest of its jobs."""
    largest = {name: max(map(_size, _of(story, name)), default=0.25) for name in QUEUES}
    least = max([*largest.values(), 0.25])
    made = []
    parent = rng.random() < 0.4
    if parent:
        most = rng.choice((least, max(least, devices * 0.75)))
        rules: dict[str, Any] = {"limit": _amount(most)} if rng.random() < 0.4 else {}
        made.append(action(0.0, "queue", "lab", **rules))
    for name in QUEUES:
        spec: dict[str, Any] = {"parent": "lab"} if parent else {}
        quota = rng.choice((0.5, 1.0, float(devices))) if name == "qa" else rng.choice((0.0, 0.0, 0.5))
        if quota:
            spec["quota"] = _amount(quota)
        spec["minRuntime"] = rng.choice(("1s", "5s", "5s", "20s"))
        if rng.random() < 0.3:
            spec["limit"] = _amount(max(largest[name], rng.choice((0.5, 1.0))))
        if rng.random() < 0.15:
            spec["maxJobs"] = rng.choice((1, 2))
        if rng.random() < 0.15:
            spec["perUser"] = {"limit": _amount(max(largest[name], 0.5))}
        if theme == "turns":
            spec = {"turns": {"length": rng.choice(("10s", "30s"))}}
        made.append(action(0.0, "queue", name, **spec))
    return made


def _amount(devices: float) -> list[dict[str, float]]:
    return [{"devices": devices}]


def _of(story: list[Action], queue: str) -> list[dict[str, Any]]:
    found = [dict(each.fields) for each in story if each.verb in ("create", "array", "cron")]
    return [fields for fields in found if fields.get("queue") == queue]


def _size(fields: dict[str, Any]) -> float:
    return float(fields["replicas"]) * float(fields["memory"])


def _fault(rng: random.Random, nodes: int, moments: list[float]) -> Fault:
    fault = fault_of(rng, nodes, moments)
    return replace(fault, call=rng.choice(CALLS)) if fault.call and rng.random() < 0.4 else fault
