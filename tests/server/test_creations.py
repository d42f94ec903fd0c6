"""Objects that requests ask for at the same time are made in one call, each for itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cumulus.errors import AlreadyExists
from cumulus.resources.key import Document
from cumulus.server.creations import MOST, Creations
from cumulus.service.identity import Identity
from cumulus.service.objects import Creation
from tests.waiting import PATIENCE

ANN = Identity("ann", 1001)


class Service:
    """Makes what it is asked for, but nothing called `bad`."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.error: BaseException | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def create_each(self, asked: Sequence[Creation]) -> Sequence[Document | BaseException]:
        self.calls.append([each.document["name"] for each in asked])
        assert self.may_go_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        bad = AlreadyExists("it is there")
        return [bad if each.document["name"] == "bad" else {"made": each.document["name"]} for each in asked]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def creations(service: Service) -> Iterator[Creations]:
    with ThreadPoolExecutor(2) as threads:
        yield Creations(service.create_each, threads)


def asked(name: str) -> Creation:
    return Creation(ANN, {"name": name})


async def outcomes(creations: Creations, *names: str) -> list[object]:
    waiting = [asyncio.create_task(creations.create(asked(name))) for name in names]
    return list(await asyncio.gather(*waiting, return_exceptions=True))


def test_those_of_one_turn_are_one_call_and_each_has_its_own_outcome(service: Service, creations: Creations) -> None:
    made = asyncio.run(outcomes(creations, "a", "bad", "b"))
    assert (made[0], type(made[1]), made[2]) == ({"made": "a"}, AlreadyExists, {"made": "b"})
    assert service.calls == [["a", "bad", "b"]]


def test_no_call_makes_too_many(service: Service, creations: Creations) -> None:
    names = [f"n{number}" for number in range(MOST + 1)]
    made = asyncio.run(outcomes(creations, *names))
    assert made == [{"made": name} for name in names]
    assert sorted(map(len, service.calls)) == [1, MOST]


def test_one_that_takes_long_is_made_alone_and_holds_up_no_other(service: Service, creations: Creations) -> None:
    async def both() -> None:
        service.may_go_on.clear()
        alone = asyncio.create_task(creations.create(asked("large"), alone=True))
        while not service.calls:
            await asyncio.sleep(0.01)
        other = asyncio.create_task(creations.create(asked("small")))
        while len(service.calls) < 2:
            await asyncio.sleep(0.01)
        service.may_go_on.set()
        assert [await alone, await other] == [{"made": "large"}, {"made": "small"}]

    asyncio.run(both())
    assert service.calls == [["large"], ["small"]]


def test_who_has_gone_is_not_asked_for_and_keeps_nobody_waiting(service: Service, creations: Creations) -> None:
    async def gone() -> None:
        going, staying = (asyncio.create_task(creations.create(asked(name))) for name in ("going", "staying"))
        await asyncio.sleep(0)
        going.cancel()
        assert await staying == {"made": "staying"}
        with pytest.raises(asyncio.CancelledError):
            await going

    asyncio.run(gone())
    assert service.calls[-1] in (["staying"], ["going", "staying"])


def test_a_defect_is_the_error_of_all_and_nobody_is_left_waiting(service: Service, creations: Creations) -> None:
    service.error = ZeroDivisionError()
    assert [type(each) for each in asyncio.run(outcomes(creations, "a", "b"))] == [ZeroDivisionError] * 2


def test_a_server_that_ends_leaves_nobody_waiting(service: Service) -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    assert [type(each) for each in asyncio.run(outcomes(Creations(service.create_each, threads), "a"))] == [
        RuntimeError
    ]


def test_two_event_loops(service: Service, creations: Creations) -> None:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda name=name: found.extend(asyncio.run(outcomes(creations, name))))  # type: ignore[misc]
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(map(str, found)) == ["{'made': 'a'}", "{'made': 'b'}"]
