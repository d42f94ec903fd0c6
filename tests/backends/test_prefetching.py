"""How checkpoints are brought ahead: few at a time, once, given up when nobody wants them there any more."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest

from cumulus.backends.base import Prefetched
from cumulus.backends.swarm.prefetching import MOST, PrefetchGivenUp, Prefetching
from cumulus.errors import BackendError
from tests.waiting import PATIENCE, eventually


class Copies:
    """What would copy: each waits for `go`, or to be given up."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun: list[str] = []
        self.given_up: list[str] = []
        self.ended: list[str] = []

    def of(self, name: str, step: int = 5) -> tuple[Callable[[threading.Event], int | None], Callable[[], None]]:
        def work(gone: threading.Event) -> int | None:
            self.begun.append(name)
            while not self.go.wait(0.01):
                if gone.is_set():
                    self.given_up.append(name)
                    raise PrefetchGivenUp
            return step

        return work, lambda: self.ended.append(name)


def test_one_is_begun_once_and_told_when_it_is_there() -> None:
    made, copies = Prefetching(), Copies()
    for _ in range(3):
        assert made.ask("u", 0, "b", "t1", *copies.of("b")) == Prefetched("b")
    eventually(lambda: copies.begun == ["b"])
    copies.go.set()
    eventually(lambda: copies.ended == ["b"])
    assert made.ask("u", 0, "b", "t1", *copies.of("again")) == Prefetched("b", 5, done=True)
    assert copies.begun == ["b"]


def test_one_for_another_node_or_of_something_newer_takes_its_place() -> None:
    made, copies = Prefetching(), Copies()
    made.ask("u", 0, "b", "t1", *copies.of("b"))
    eventually(lambda: copies.begun == ["b"])
    made.ask("u", 0, "c", "t1", *copies.of("c"))
    eventually(lambda: (copies.given_up, copies.begun) == (["b"], ["b", "c"]))
    made.ask("u", 0, "c", "t2", *copies.of("c2"))
    eventually(lambda: (copies.given_up, copies.begun[2:]) == (["b", "c"], ["c2"]))
    made.forget("u")
    eventually(lambda: copies.given_up == ["b", "c", "c2"])
    assert copies.ended == []


def test_few_are_on_their_way_at_a_time_and_who_waits_can_be_given_up() -> None:
    made, copies = Prefetching(), Copies()
    for number in range(MOST):
        made.ask(f"u{number}", 0, "b", "t", *copies.of(f"{number}"))
    eventually(lambda: len(copies.begun) == MOST)
    for number in range(MOST, MOST + 2):
        made.ask(f"u{number}", 0, "b", "t", *copies.of(f"{number}"))
    made.forget(f"u{MOST}")
    copies.go.set()
    eventually(lambda: sorted(copies.ended) == ["0", "1", f"{MOST + 1}"])
    assert f"{MOST}" not in copies.begun


def test_what_went_wrong_is_told_and_not_tried_again() -> None:
    made, ended = Prefetching(), threading.Event()
    begun: list[int] = []

    def fails(gone: threading.Event) -> int | None:
        begun.append(1)
        raise BackendError("no room")

    made.ask("u", 0, "b", "t", fails, ended.set)
    assert ended.wait(PATIENCE)
    assert made.ask("u", 0, "b", "t", fails, ended.set) == Prefetched("b", done=True, problem="no room")
    assert begun == [1]


def test_a_start_waits_for_the_one_to_its_node_and_gives_any_other_up() -> None:
    made, copies = Prefetching(), Copies()
    made.ask("u", 0, "b", "t", *copies.of("b"))
    eventually(lambda: copies.begun == ["b"])
    begins = threading.Event()

    def start() -> None:
        with made.started("u", 0, "b"):
            begins.set()

    threading.Thread(target=start, daemon=True).start()
    copies.go.set()
    assert begins.wait(PATIENCE)
    assert copies.given_up == []
    copies.go.clear()
    made.ask("v", 0, "b", "t", *copies.of("v"))
    eventually(lambda: copies.begun == ["b", "v"])
    with made.started("v", 0, "c") as gone:
        eventually(lambda: copies.given_up == ["v"])
        # A start is not given up by what only concerns what comes ahead.
        made.forget("v")
        assert not gone.is_set()


def test_the_end_of_a_job_waits_for_all_that_is_on_its_way() -> None:
    made, copies = Prefetching(), Copies()
    deaf, held = threading.Event(), threading.Event()

    def stays(gone: threading.Event) -> int | None:
        deaf.wait(PATIENCE)
        raise PrefetchGivenUp

    def start() -> None:
        with contextlib.suppress(PrefetchGivenUp), made.started("u", 1, "c") as gone:
            held.set()
            gone.wait(PATIENCE)
            raise PrefetchGivenUp

    made.ask("u", 0, "b", "t", stays, lambda: pytest.fail("it was given up"))
    threading.Thread(target=start, daemon=True).start()
    made.ask("v", 0, "b", "t", *copies.of("another job's"))
    assert held.wait(PATIENCE)
    assert not made.end("u", 0.0)
    # Also one that was given up before is waited for.
    made.forget("u")
    assert not made.end("u", 0.0)
    deaf.set()
    assert made.end("u", PATIENCE)
    assert copies.given_up == []
    copies.go.set()
    eventually(lambda: copies.ended == ["another job's"])
