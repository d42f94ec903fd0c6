"""Sessions and map, against the real runner's sessions."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus.calls.outcome import Outcome
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.backoff import Backoff
from cumulus.sdk import AsyncCumulusClient, Cancelled, Crashed, CumulusClient, NodeLost, NotPicklable
from cumulus.sdk import transport as transport_module
from cumulus.sdk.threads import Background
from tests.sdk.fake_orchestrator import FakeOrchestrator
from tests.waiting import eventually

pytestmark = pytest.mark.xdist_group("sdk-fake")

STATE = """
kept = []

def keep(value):
    kept.append(value)
    return len(kept)

def slow(seconds):
    import time
    time.sleep(seconds)
    return seconds

def note(path, value):
    with open(path, "a") as file:
        file.write(f"{value}\\n")
    return value * value

def fail_at(value):
    if value == 3:
        raise ValueError(f"no {value}")
    return value

def wait_for(begun, path):
    import os, time
    open(begun, "w").close()
    while not os.path.exists(path):
        time.sleep(0.02)
    return True

class Unreadable:
    def __reduce__(self):
        return int, ("no number",)

def unreadable_at_1(value):
    return Unreadable() if value == 1 else value

def die_once(path, value):
    import os
    if value == 5 and not os.path.exists(path):
        open(path, "w").close()
        os._exit(1)
    return value
"""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "BACKOFF", Backoff(0.01, 0.01))


@pytest.fixture
def state(project: Path) -> Any:
    (project / "state.py").write_text(STATE)
    import state  # type: ignore[import-not-found]

    return state


def test_state_lives_on_in_one_process(client: CumulusClient, state: Any) -> None:
    with client.session(gpu_memory=0.5) as session:
        assert [session.run(state.keep, value) for value in range(5)] == [1, 2, 3, 4, 5]
        assert session.run(os.getpid) == session.remote(os.getpid)()
        futures = [session.submit(state.keep, value) for value in range(5)]
        assert [each.result() for each in futures] == [6, 7, 8, 9, 10]
        with pytest.raises(ZeroDivisionError):
            session.run(lambda: 1 // 0)
        with pytest.raises(TypeError, match="missing a required argument"):
            session.run(state.keep)
        with pytest.raises(NotPicklable):
            session.run(state.keep, threading.Lock())
        assert session.run(state.keep, bytes(3_000_000)) == 11
    with pytest.raises((CumulusError, Cancelled)):
        session.run(state.keep, 1)


def test_what_a_session_prints_is_printed(client: CumulusClient, capsys: pytest.CaptureFixture[str]) -> None:
    with client.session() as session:
        for number in range(20):
            session.run(print, number)
    assert capsys.readouterr().out == "".join(f"{number}\n" for number in range(20))


def test_a_session_ends_with_its_process(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    session = client.session()
    with pytest.raises(Crashed):
        session.run(os._exit, 3)
    with pytest.raises(Crashed):
        session.run(os.getpid)
    session.close()
    with pytest.raises(UsageError, match="retries"):
        client.session(retries=1)
    orchestrator.next_outcome = Outcome("LeaseExpired"), b""
    with client.session() as session, pytest.raises(CumulusError, match="LeaseExpired"):
        session.run(os.getpid)


def test_a_session_that_is_over_as_it_begins_is_ended(
    client: CumulusClient, orchestrator: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Background.start

    def start_and_wait(self: Background, target: Callable[[], None]) -> None:
        over = threading.Event()

        def run() -> None:
            target()
            over.set()

        start(self, run)
        over.wait(2)

    monkeypatch.setattr(Background, "start", start_and_wait)
    orchestrator.next_outcome = Outcome("LeaseExpired"), b""
    session = client.session()
    assert [job.deleted for job in orchestrator.jobs.values()] == [True]
    session.close()


def test_another_process_does_not_go_on_for_a_session(
    client: CumulusClient, orchestrator: FakeOrchestrator, state: Any
) -> None:
    with client.session() as session:
        session.run(state.keep, 1)
        job = orchestrator.last
        job.held = True
        orchestrator.kill(job)
        eventually(lambda: job.process is not None and job.process.poll() is not None)
        orchestrator.start_again(job)
        with pytest.raises(NodeLost, match="and what it kept"):
            session.run(state.keep, 2)
        eventually(lambda: job.deleted, what="its job is cancelled")


def test_a_session_needs_its_code_from_the_beginning(client: CumulusClient, project: Path) -> None:
    with client.session() as session:
        (project / "after.py").write_text("def f(): return 1\n")
        import after  # type: ignore[import-not-found]

        with pytest.raises(UsageError, match="was not imported when session"):
            session.run(after.f)


def test_a_session_for_asyncio(orchestrator: FakeOrchestrator, project: Path) -> None:
    async def main() -> None:
        async with AsyncCumulusClient(orchestrator.address, project=project) as client:
            async with await client.session() as session:
                assert [*await asyncio.gather(session.run(abs, -1), session.run(abs, -2))] == [1, 2]
            found = [value async for value in client.map(abs, [-1, -2, -3])]
            assert found == [1, 2, 3]

    asyncio.run(main())


def test_who_gives_up_on_a_call_leaves_its_session_be(
    orchestrator: FakeOrchestrator, project: Path, state: Any, tmp_path: Path
) -> None:
    begun, path = tmp_path / "begun", tmp_path / "path"

    async def main() -> None:
        client = AsyncCumulusClient(orchestrator.address, project=project)
        async with client, await client.session() as session:
            waits = asyncio.ensure_future(session.run(state.wait_for, str(begun), str(path)))
            while not begun.exists():
                await asyncio.sleep(0.02)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            kept = session._session.submit(state.keep, 1)
            assert not kept.cancel()
            path.touch()
            assert await asyncio.wrap_future(kept) == 1
            assert await session.run(state.keep, 2) == 2

    asyncio.run(main())


def test_each_call_of_a_session_runs_once_through_restarts(
    client: CumulusClient, orchestrator: FakeOrchestrator, state: Any, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    with client.session() as session:
        session.run(state.note, str(notes), 0)
        futures = [session.submit(state.note, str(notes), value) for value in range(1, 200)]
        for part in (50, 100, 150):
            eventually(futures[part].done, what="calls are answered")
            orchestrator.restart()
        assert [future.result() for future in futures] == [value * value for value in range(1, 200)]
    assert notes.read_text().split() == [str(value) for value in range(200)]


def test_map_keeps_the_order(client: CumulusClient, orchestrator: FakeOrchestrator, state: Any) -> None:
    results = client.map(abs, range(-500, 0), workers=2)
    assert list(results) == list(range(500, 0, -1))
    assert results.attempts == dict.fromkeys(range(500), 1)
    assert len(orchestrator.jobs) == 2
    eventually(lambda: all(job.deleted for job in orchestrator.jobs.values()), what="sessions are ended")
    assert list(client.starmap(divmod, [(7, 3), (9, 2)])) == [(2, 1), (4, 1)]
    assert list(client.map(abs, [])) == []
    assert sorted(client.map(state.slow, [0.3, 0, 0], workers=2, ordered=False)) == [0, 0, 0.3]


def test_who_stops_waiting_for_a_map_is_not_held(client: CumulusClient, state: Any) -> None:
    async def wait_shortly(results: Any) -> None:
        await asyncio.wait_for(anext(results), 0.2)

    with client.map(state.slow, [600], workers=1) as results, pytest.raises(TimeoutError):
        asyncio.run(wait_shortly(results))


def test_a_result_of_map_that_nobody_waited_for_is_not_lost(client: CumulusClient, state: Any) -> None:
    async def main() -> list[Any]:
        results = client.map(state.slow, [0.5, 0], workers=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(results), 0.1)
        return [value async for value in results]

    assert asyncio.run(main()) == [0.5, 0]


def test_map_of_an_endless_iterator_is_bounded(client: CumulusClient) -> None:
    import itertools

    taken = []

    def source() -> Any:
        for value in itertools.count():
            taken.append(value)
            yield value

    with client.map(abs, source(), workers=1) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        time.sleep(0.5)
    assert len(taken) <= 5000


def test_map_tells_failures(client: CumulusClient, state: Any) -> None:
    results = client.map(state.fail_at, range(6), workers=1, return_exceptions=True)
    found = list(results)
    assert isinstance(found[3], ValueError)
    assert found[3].__notes__[0].startswith("\nRaised in item 3 (the first is 0):\n")
    assert "no 3" in found[3].__notes__[0]
    assert found[4] == 4
    with pytest.raises(ValueError, match="no 3"):
        list(client.map(state.fail_at, range(6), workers=1))
    with pytest.raises(UsageError, match="workers"):
        client.map(abs, [1], workers=0)
    with pytest.raises(NotPicklable):
        list(client.map(abs, [threading.Lock()]))
    with pytest.raises(TypeError):
        list(client.starmap(divmod, [()]))


def test_an_item_of_map_whose_result_cannot_be_rebuilt(client: CumulusClient, state: Any) -> None:
    found = list(client.map(state.unreadable_at_1, range(3), workers=1, return_exceptions=True))
    assert [found[0], found[2]] == [0, 2]
    assert isinstance(found[1], CumulusError)
    assert str(found[1]).startswith("what item 1 (the first is 0) returned, can't be rebuilt here: ValueError: ")


def test_map_goes_on_where_a_session_died(client: CumulusClient, state: Any, tmp_path: Path) -> None:
    def items(name: str) -> Any:
        return [(str(tmp_path / name), value) for value in range(20)]

    results = client.starmap(state.die_once, items("a"), workers=1, retries=1)
    assert list(results) == list(range(20))
    assert results.attempts[5] >= 2
    always: Any = client.map(os._exit, [1], return_exceptions=True)
    assert [type(value) for value in always] == [Crashed]


def test_map_through_restarts(
    client: CumulusClient, orchestrator: FakeOrchestrator, state: Any, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    results = client.starmap(state.note, [(str(notes), value) for value in range(1000)], workers=2)
    found: list[int] = []
    for value in results:
        found.append(value)
        if len(found) in (100, 300, 700):
            orchestrator.restart()
    assert found == [value * value for value in range(1000)]
    ran = sorted(map(int, notes.read_text().split()))
    assert ran == sorted(number for number, times in results.attempts.items() for _ in range(times))


def test_a_remote_function(client: CumulusClient, state: Any) -> None:
    keep = client.remote(state.keep, gpu_memory=0.5)
    assert keep("x") == 1
    assert keep.local("x") == 1
    assert keep.submit("x").result() == 1
    assert list(keep.map(["x"])) == [1]
    assert client.run(keep, "y") == 1
