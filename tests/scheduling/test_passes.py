"""What is kept from one pass to the next, and shared within one, changes no answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from cumulus.resources.key import Key
from cumulus.resources.quantity import Share
from cumulus.scheduling.claim import Claim, Demand, Filter
from cumulus.scheduling.cycle import Cycle, place
from cumulus.scheduling.node_reasons import Explainer, node_reasons
from cumulus.scheduling.snapshot import Assembler, Snapshot, assemble
from tests.scheduling.worlds import NOW, snapshots

_DEMANDS = [Demand(Filter(), Share(size=size), None) for size in (1, 2, 4)]


@st.composite
def _claims(draw: st.DrawFn) -> Claim:
    number = draw(st.integers(0, 5))
    holding = draw(st.booleans())
    gang = draw(st.sampled_from(("", f"default/p{number}", "default/gang", "default/p0")))
    return Claim(
        partition=Key("GPUPartition", "default", f"p{number}"), uid=f"u{number}", holding=holding,
        pending=not holding and draw(st.booleans()), deleting=draw(st.sampled_from((False, False, True))), gang=gang,
        size=draw(st.integers(1, 2)), group=draw(st.integers(0, 1)), demand=draw(st.sampled_from(_DEMANDS)),
            spread=False,
        duration=60.0, grace=10.0, priority=draw(st.integers(0, 1)),
        since=draw(st.sampled_from((None, NOW, NOW - timedelta(seconds=9)))), job="", user="", node="n0", device=0,
        memory_bytes=1, compute=100, expires_at=None, lease="",
    )  # fmt: skip


@given(st.lists(st.dictionaries(st.integers(0, 5), _claims(), max_size=6), min_size=1, max_size=5))
def test_an_assembler_that_is_kept_answers_as_a_new_one(passes: list[dict[int, Claim]]) -> None:
    """Claims stay the same objects from pass to pass, are replaced, and go."""
    kept = Assembler()
    there: dict[Key, Claim] = {}
    for number, found in enumerate(passes):
        there |= {claim.partition: claim for claim in found.values()}
        for key in [key for key in there if number % 2 and int(key.name[1:]) == number]:
            del there[key]
        now = NOW + timedelta(seconds=number)
        assert kept.assemble([], there.values(), now) == assemble([], there.values(), now)


@given(snapshots())
def test_gangs_that_ask_for_the_same_share_their_reasons(snapshot: Snapshot) -> None:
    run = Cycle(snapshot)
    explain = Explainer(snapshot, run.availability)
    for gang in snapshot.pending:
        if not run.bind(gang):
            assert explain.node_reasons(gang) == node_reasons(snapshot, run.availability, gang)
            run.refuse(gang)


@given(snapshots())
def test_a_refusal_of_one_speaks_for_all_that_ask_for_the_same(snapshot: Snapshot) -> None:
    """Gangs of one are looked up by their demand's identity. With no two demands one object, each is looked at."""
    apart = replace(
        snapshot,
        pending=tuple(
            replace(gang, members=tuple(replace(r, demand=replace(r.demand)) for r in gang.members))
            for gang in snapshot.pending
        ),
    )
    shared: dict[Demand, Demand] = {}
    alike = replace(
        snapshot,
        pending=tuple(
            replace(
                gang,
                members=tuple(replace(r, demand=shared.setdefault(r.demand, r.demand)) for r in gang.members),
            )
            for gang in snapshot.pending
        ),
    )
    assert place(alike) == place(apart)
