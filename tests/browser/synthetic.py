"""Timelines as the server answers them, made up: every kind of span, of any size, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cumulus.answers.history import Lane, Span, Timeline


HOUR = 3_600_000
USERS = ("alice", "bob", "carol", "dave", "erin", "frank")
JOBS = ("train", "evaluate", "notebook", "sweep", "embed")


def timeline(
    now: int, *, nodes: int = 3, devices: int = 4, leases: int = 200, hours: float = 48, seed: int = 1
) -> Timeline:
    """`leases` in all, most of them in the past `hours`; a node's second device is cut into MIG instances."""
    chance = random.Random(seed)
    lanes = [lane for node in range(nodes) for lane in _lanes(f"gpu-{node + 1:02}", devices, mig=nodes < 10)]
    each, rest = divmod(leases, len(lanes))
    start, end = now - int(hours * HOUR), now + 8 * HOUR
    for index, lane in enumerate(lanes):
        lane["spans"] = sorted(_spans(chance, now, start, each + (index < rest), index), key=lambda span: span["start"])
    return {"now": now, "start": start, "end": end, "lanes": lanes}


def clipped(made: Timeline, query: Mapping[str, int]) -> Timeline:
    """What of it a window shows, with nothing merged."""
    lanes = [
        {**lane, "spans": [s for s in lane["spans"] if s["end"] > query["start"] and s["start"] < query["end"]]}
        for lane in made["lanes"]
    ]
    return {**made, "lanes": lanes}  # type: ignore[typeddict-item]


def _lanes(node: str, devices: int, *, mig: bool) -> Iterator[Lane]:
    index = 0
    for device in range(devices):
        parts = 3 if mig and device == 1 else 0
        for part in range(max(1, parts)):
            yield {
                "node": node, "device": index, "uuid": f"{'MIG' if parts else 'GPU'}-{node}-{device}-{part}",
                "name": "NVIDIA H200 MIG 2g.35gb" if parts else "NVIDIA H200", "memoryBytes": 150 << 30,
                "parent": f"GPU-{node}-{device}" if parts else None, "healthy": True, "spans": [],
            }  # fmt: skip
            index += 1


def _spans(chance: random.Random, now: int, start: int, count: int, lane: int) -> Iterator[Span]:
    """Two halves of the device, each with leases one after another up to one that runs, then what is to come."""
    for half, offset in enumerate((0.0, 0.5)):
        own = count // 2 + (count % 2 if half == 0 else 0)
        length = (now - start) / max(1, own)
        for number in range(own):
            begins = start + int(number * length)
            runs = number == own - 1
            ends = now + int(chance.uniform(0.5, 4) * HOUR) if runs else begins + int(length * 0.9)
            yield _span(
                chance, "Lease", begins, ends, offset,
                phase="Bound" if runs else chance.choice(("Succeeded", "Succeeded", "Failed", "Expired")),
                used=chance.choice((0.0, 0.4, 0.8, 0.97, 1.15, None)),
            )  # fmt: skip
    if lane % 3 == 0:
        latest = now + int(6.5 * HOUR)
        yield _span(chance, "Promise", now + 4 * HOUR, now + 6 * HOUR, 0.0, phase="Promised", latest=latest)
    if lane % 4 == 1:
        yield _span(chance, "Reservation", now + 5 * HOUR, now + 7 * HOUR, 0.5)
    if lane % 5 == 2:
        yield {**_span(chance, "Drain", now - HOUR, now + 8 * HOUR, 0.0), "share": 1.0, "job": None, "user": None}
    if lane % 7 == 3:
        yield _span(chance, "Parked", now - HOUR // 2, now + 3 * HOUR, 0.5, phase="Parked")
    if lane % 11 == 5:
        yield {**_span(chance, "Down", now - 2 * HOUR, now, 0.0), "share": 1.0, "job": None, "user": None}


def _span(
    chance: random.Random, kind: str, start: int, end: int, offset: float, *, phase: str = "",
    used: float | None = None, latest: int | None = None,
) -> Span:  # fmt: skip
    user = chance.choice(USERS)
    return {
        "kind": kind, "start": start, "end": end, "share": chance.choice((0.25, 0.5)), "offset": offset, "used": used,
        "busy": None if used is None else min(1.0, used),
        "job": f"{user}/{chance.choice(JOBS)}-{start // 1000 % 10000}",
        "user": user, "phase": phase, "enforcement": "hard", "latestStart": latest, "merged": 1,
    }  # type: ignore[typeddict-item]  # fmt: skip
