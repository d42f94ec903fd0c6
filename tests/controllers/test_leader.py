"""Two contenders on one store, each with its own clock."""

from __future__ import annotations

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import Fenced, StoreReplaced, StoreUnavailable
from cumulus.machinery.leader import LEASE_SECONDS, Elector
from cumulus.resources.kinds.lease import LEADER
from cumulus.resources.lease import Lease
from cumulus.resources.reasons import LeaderCondition
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from cumulus.testing.faults import Faults
from tests.controllers.faulty import FaultyStore
from tests.controllers.objects import a_job


class Pair:
    """A and B, stepped together in real intervals; the clocks need not agree on the hour."""

    def __init__(self) -> None:
        self.store = MemoryStore(clock=FakeClock())
        self.clocks = {"a": FakeClock(), "b": FakeClock()}
        self.clocks["b"].jump(-86400)
        self.faults = Faults()
        faulty = FaultyStore(self.store, self.faults)
        self.a = Elector(faulty, "a", self.clocks["a"])  # type: ignore[arg-type]
        self.b = Elector(self.store, "b", self.clocks["b"])

    def advance(self, seconds: float) -> None:
        for clock in self.clocks.values():
            clock.advance(seconds)

    def lease(self) -> Lease:
        return StoreClient(self.store).get(Lease, "", LEADER)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_the_first_leads_and_the_second_stands_by(pair: Pair) -> None:
    assert pair.a.step()
    for _ in range(60):
        assert not pair.b.step()
        pair.advance(1)
        assert pair.a.step()
    assert pair.lease().spec.token == 1
    assert pair.lease().spec.holder_identity == "a"


def test_a_killed_leader_is_followed_within_ten_seconds(pair: Pair) -> None:
    pair.a.step()
    pair.b.step()
    pair.advance(2)
    pair.a.step()
    seconds = 0.0
    while not pair.b.step():
        pair.advance(pair.b.interval)
        seconds += pair.b.interval
    assert LEASE_SECONDS <= seconds <= 10
    assert pair.lease().spec.token == 2


def test_a_leader_that_cannot_renew_stops_before_another_starts(pair: Pair) -> None:
    pair.a.step()
    pair.b.step()
    pair.faults.fail("write", StoreUnavailable("no answer"), times=100)
    for _ in range(100):
        pair.advance(0.25)
        pair.a.step()
        if pair.b.step():
            break
        assert not (pair.a.leading and pair.b.leading)
    assert pair.b.leading
    assert not pair.a.leading


def test_a_passing_fault_costs_no_leadership(pair: Pair) -> None:
    pair.a.step()
    pair.faults.fail("write", StoreUnavailable("no answer"), times=2)
    for _ in range(2):
        pair.advance(2)
        assert pair.a.step()
    pair.advance(1)
    assert pair.a.step()
    assert pair.lease().spec.token == 1


def test_a_renewal_whose_answer_was_lost_is_still_ours(pair: Pair) -> None:
    pair.a.step()
    pair.faults.fail("write", StoreUnavailable("no answer"), when="after")
    pair.advance(2)
    pair.a.step()
    pair.advance(2)
    assert pair.a.step()
    assert pair.lease().spec.token == 1


def test_a_clean_stop_lets_the_standby_in_at_once(pair: Pair) -> None:
    pair.a.step()
    pair.b.step()
    pair.a.release()
    assert not pair.a.leading
    assert pair.b.step()
    assert pair.lease().spec.token == 2


def test_release_takes_nothing_from_a_successor(pair: Pair) -> None:
    pair.a.step()
    pair.b.step()
    pair.advance(LEASE_SECONDS + 1)
    assert pair.b.step()
    pair.a.release()
    assert pair.lease().spec.holder_identity == "b"


def test_a_deposed_leader_notices_when_it_renews(pair: Pair) -> None:
    pair.a.step()
    pair.b.step()
    # B's clock runs ahead while A was held up between two instructions.
    pair.clocks["b"].advance(LEASE_SECONDS + 1)
    assert pair.b.step()
    assert not pair.a.step()
    assert pair.a.term is None


def test_the_fence_refuses_a_deposed_leaders_writes(pair: Pair) -> None:
    pair.a.step()
    term = pair.a.term
    assert term is not None
    client = StoreClient(pair.store, term.fence)
    client.create(a_job("before"))
    pair.b.step()
    pair.clocks["b"].advance(LEASE_SECONDS + 1)
    pair.b.step()
    with pytest.raises(Fenced):
        client.create(a_job("after"))


def test_a_term_names_the_store_and_the_moment(pair: Pair) -> None:
    pair.a.step()
    first = pair.a.term
    pair.a.release()
    pair.b.step()
    second = pair.b.term
    assert first is not None
    assert second is not None
    assert first.store_id == second.store_id == pair.lease().uid
    assert second.revision > first.revision
    assert second.fence.token == first.fence.token + 1


def test_two_that_claim_at_once_get_one_leader(pair: Pair) -> None:
    pair.a.step()
    pair.a.release()
    wins = [pair.b.step(), pair.a.step()]
    assert wins == [True, False]


def test_a_leader_whose_process_is_gone_is_not_waited_for(pair: Pair) -> None:
    gone: set[str] = set()
    pair.a = Elector(pair.store, "a", pair.clocks["a"], process="here/1")
    pair.b = Elector(pair.store, "b", pair.clocks["b"], process="here/2", is_gone=gone.__contains__)
    pair.a.step()
    assert not pair.b.step()
    gone.add("here/1")
    assert pair.b.step()
    assert pair.lease().spec.token == 2
    assert pair.lease().spec.holder_process == "here/2"
    with pytest.raises(Fenced):
        StoreClient(pair.store, pair.a.term.fence if pair.a.term else None).create(a_job("after"))


def test_a_term_that_lapsed_while_its_renewal_was_written_never_goes_on(pair: Pair) -> None:
    """The writers' lock was held: the renewal is written, but the term was over before, and its workers have left."""
    pair.a.step()
    first = pair.a.term
    assert first is not None
    pair.advance(2)
    seen = []

    def slowly(call: str, subject: str, when: str) -> None:
        if call == "write" and when == "before":
            pair.advance(LEASE_SECONDS - 1.9)
            seen.append(pair.a.holds(first))

    pair.faults.hook = slowly
    assert not pair.a.step()
    pair.faults.hook = None
    assert seen == [False]
    assert pair.a.term is None
    assert not pair.a.holds(first)
    # The Lease still names it, so that it need not wait; and the new term's token fences what is left of the old one.
    assert pair.lease().spec.holder_identity == "a"
    assert pair.a.step()
    assert not pair.a.holds(first)
    assert pair.lease().spec.token == 2
    with pytest.raises(Fenced):
        StoreClient(pair.store, first.fence).create(a_job("late"))


def test_whoever_works_for_an_old_term_cannot_end_the_new_one(pair: Pair) -> None:
    pair.a.step()
    first = pair.a.term
    pair.a.depose(first)
    assert not pair.a.leading
    assert pair.a.step()
    pair.a.depose(first)
    assert pair.a.leading
    pair.a.depose(pair.a.term)
    assert not pair.a.leading


def test_a_store_that_was_replaced_ends_the_term_and_is_told(pair: Pair) -> None:
    pair.a.step()
    pair.faults.fail("write", StoreReplaced("another file"))
    pair.advance(2)
    with pytest.raises(StoreReplaced):
        pair.a.step()
    assert not pair.a.leading


def test_how_the_leader_is_stands_on_the_lease_and_is_written_when_it_changes(pair: Pair) -> None:
    pair.a.report(["nobody leads"])
    pair.a.step()

    def said() -> list[tuple[str, str, str]]:
        found = [c for c in pair.lease().status.conditions if c.type == LeaderCondition.PROGRESSING]
        return [(c.status, c.reason, c.message) for c in found]

    pair.a.report([])
    assert said() == [("True", "Works", "")]
    version = pair.lease().metadata.resource_version
    pair.a.report([])
    assert pair.lease().metadata.resource_version == version
    pair.a.report(["the controller job stands", "events are late"])
    assert said() == [("False", "Stalled", "the controller job stands; events are late")]
    pair.advance(2)
    assert pair.a.step()
    assert said() == [("False", "Stalled", "the controller job stands; events are late")]
    # A successor says for itself.
    pair.a.release()
    assert pair.b.step()
    pair.b.report([])
    assert said() == [("True", "Works", "")]
