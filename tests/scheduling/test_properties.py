"""What holds for every cluster and queue."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.scheduling.cycle import Cycle, CycleResult, place
from cumulus.scheduling.equivalence import KnownMisfits
from cumulus.scheduling.explain import GangState, explain
from cumulus.scheduling.snapshot import Gang, Snapshot
from tests.scheduling import worlds

relaxed = settings(deadline=None)


def starts_of(snapshot: Snapshot, arrivals: list[Gang] | None = None) -> tuple[dict[str, datetime], Snapshot]:
    """When each gang starts if every lease runs to its end; an arrival joins at its `since`. Checks each step."""
    started: dict[str, datetime] = {}
    coming = sorted(arrivals or [], key=lambda gang: gang.since)
    for _ in range(200):
        here = [gang for gang in coming if gang.since <= snapshot.now]
        coming = coming[len(here) :]
        snapshot = worlds.queued(snapshot, snapshot.pending + tuple(here))
        plan = place(snapshot)
        check_plan(snapshot, plan)
        started |= {binding.gang: snapshot.now for binding in plan.bindings}
        snapshot = worlds.bound(snapshot, plan)
        moments = [*worlds.ends(snapshot), *(gang.since for gang in coming)]
        if not moments:
            return started, snapshot
        snapshot = worlds.advanced(snapshot, min(moments))
    raise AssertionError("the simulation did not come to an end")


def check_plan(snapshot: Snapshot, plan: CycleResult) -> None:
    """No device over 100 %, gangs whole, groups on distinct devices of one ready node that matches, no host port of a
    node given twice."""
    free = worlds.free_at(worlds.bound(snapshot, plan), snapshot.now)
    assert all(memory >= 0 and compute >= 0 for memory, compute in free.values())
    seats = {binding.partition: (binding.node, binding.device) for binding in plan.bindings}
    assert len(seats) == len(plan.bindings)
    booked = {(hold.node, port) for hold in snapshot.holds for port in hold.ports}
    refused = {refusal.gang.name for refusal in plan.refusals}
    for gang in snapshot.pending:
        there = [member for member in gang.members if member.partition in seats]
        assert len(there) == (0 if gang.name in refused else len(gang.members))
        groups: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
        for member in there:
            groups[member.group].append(seats[member.partition])
        for group, places in groups.items():
            ports = {port for member in there if member.group == group for port in member.demand.ports}
            given_away = [(places[0][0], port) for port in ports]
            assert booked.isdisjoint(given_away)
            booked.update(given_away)
            assert len(set(places)) == len(places)
            assert len({node for node, _ in places}) == 1


@relaxed
@given(worlds.snapshots())
def test_a_plan_keeps_within_every_device_and_never_splits_a_gang(snapshot: Snapshot) -> None:
    check_plan(snapshot, place(snapshot))


@relaxed
@given(worlds.snapshots(queue=1))
def test_the_head_is_placed_exactly_when_brute_force_finds_a_place(snapshot: Snapshot) -> None:
    placed = bool(place(snapshot).bindings)
    assert placed == worlds.fits_by_brute_force(snapshot, snapshot.pending[0], snapshot.now)


@relaxed
@given(worlds.snapshots(queue=1))
def test_the_heads_reservation_is_the_first_moment_at_which_brute_force_finds_a_place(snapshot: Snapshot) -> None:
    refusals = place(snapshot).refusals
    gang = snapshot.pending[0]
    moments = [snapshot.now, *worlds.ends(snapshot)]
    first = next((m for m in moments if worlds.fits_by_brute_force(snapshot, gang, m)), None)
    if refusals:
        reservation = refusals[0].reservation
        assert (reservation.start if reservation else None) == first
        assert refusals[0].hopeless == (first is None)
    else:
        assert first == snapshot.now


@relaxed
@given(worlds.snapshots())
def test_everything_that_fits_an_empty_cluster_starts(snapshot: Snapshot) -> None:
    empty = replace(snapshot, holds=())
    started, _ = starts_of(snapshot)
    for gang in snapshot.pending:
        assert (gang.name in started) == worlds.fits_by_brute_force(empty, gang, snapshot.now)


@relaxed
@given(worlds.snapshots(), st.lists(worlds.gangs(largest=1), max_size=6))
def test_the_promised_start_is_kept_whoever_comes_later(snapshot: Snapshot, others: list[Gang]) -> None:
    promised = {}
    for gang in snapshot.pending:
        told = explain(snapshot, gang.members[0].partition)
        assert told is not None
        if told.certain:
            assert told.earliest is not None
            promised[gang.name] = told.earliest
        if told.state is GangState.FITS:
            promised[gang.name] = snapshot.now
    started, _ = starts_of(snapshot, _later(snapshot, others, min(gang.priority for gang in snapshot.pending)))
    for name, moment in promised.items():
        assert started[name] <= moment


@relaxed
@given(worlds.snapshots(queue=3), st.lists(worlds.gangs(largest=1), max_size=12))
def test_later_arrivals_never_delay_the_head(snapshot: Snapshot, others: list[Gang]) -> None:
    refusals = place(snapshot).refusals
    if not refusals or refusals[0].reservation is None:
        return
    head = refusals[0]
    started, _ = starts_of(snapshot, _later(snapshot, others, head.gang.priority))
    assert started[head.gang.name] <= head.reservation.start


@relaxed
@given(worlds.snapshots(queue=12))
def test_learning_from_refusals_changes_nothing(snapshot: Snapshot) -> None:
    run = Cycle(snapshot)
    for gang in snapshot.pending:
        run.misfits = KnownMisfits()
        if not run.bind(gang):
            run.refuse(gang)
    assert place(snapshot) == CycleResult(tuple(run.bindings), tuple(run.refusals))


@relaxed
@given(worlds.snapshots(largest=2))
def test_what_explain_says_agrees_with_what_place_does(snapshot: Snapshot) -> None:
    plan = place(snapshot)
    placed = {binding.gang: binding for binding in plan.bindings}
    empty = replace(snapshot, holds=(), nodes=tuple(replace(n, ready=True) for n in snapshot.nodes))
    for gang in snapshot.pending:
        told = explain(snapshot, gang.members[-1].partition)
        assert told is not None
        assert (told.state is GangState.FITS) == (gang.name in placed)
        assert (told.state is GangState.NEVER) == (not worlds.fits_by_brute_force(empty, gang, snapshot.now))
        assert (told.earliest is not None) == (told.state is GangState.WAITING)
        assert told.lines()
        if told.state is GangState.FITS:
            assert set(told.bindings) <= set(plan.bindings)
        else:
            assert told.reasons
        if told.certain:
            assert told.blockers


def _later(snapshot: Snapshot, gangs: list[Gang], priority: int) -> list[Gang]:
    """The gangs as arrivals behind all who wait, a second apart."""
    assert all(gang.since < snapshot.now for gang in snapshot.pending)
    return [
        replace(gang, name=f"later{n:02}", priority=min(priority, gang.priority),
                since=snapshot.now + timedelta(seconds=1 + n), members=_renamed(gang, n))
        for n, gang in enumerate(gangs)
    ]  # fmt: skip


def _renamed(gang: Gang, number: int) -> tuple[object, ...]:
    return tuple(
        replace(member, partition=member.partition._replace(name=f"later{number:02}-{index}"))
        for index, member in enumerate(gang.members)
    )
