"""A run as people read it: its schedule, its timeline, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.schedule import Schedule
from tests.sim.simulation import Outcome


def schedule_lines(schedule: Schedule) -> Iterator[str]:
    skews = ", ".join(f"{skew:+g}" for skew in schedule.skews)
    yield (
        f"world: {schedule.nodes} nodes of {schedule.devices} devices, {schedule.daemons} daemons, "
        f"clocks wrong by {skews} s, informers late with chance {schedule.sluggish:g}"
    )
    yield "what people do:"
    yield from (f"  {action}" for action in schedule.actions)
    yield "what goes wrong:"
    yield from (f"  {fault}" for fault in schedule.faults)


def timeline_lines(outcome: Outcome) -> Iterator[str]:
    """One line for each thing that happened: seconds, who, what. `^` says that the same one goes on in that moment."""
    last: tuple[str, str] = ("", "")
    for moment, who, text in outcome.timeline:
        head = (f"{moment:9.3f}", who)
        yield f"{'' if head == last else head[0]:>9}  {'' if head == last else who:<12} {text}"
        last = head
    if outcome.violation:
        yield f"VIOLATION {outcome.violation}"
