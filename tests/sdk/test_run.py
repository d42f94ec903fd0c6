"""run, submit, attach: values, exceptions and output, against the real runner."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from cumulus.calls import outcome as outcomes
from cumulus.calls.outcome import Outcome
from cumulus.client.endpoint import Endpoint
from cumulus.client.http.errors import ServerUnavailable
from cumulus.errors import CumulusError, NotFound, UsageError
from cumulus.lib import unix_socket
from cumulus.lib.backoff import Backoff
from cumulus.sdk import (
    AsyncCumulusClient,
    Cancelled,
    Crashed,
    CumulusClient,
    LeaseExpired,
    NodeLost,
    NotPicklable,
    NotStarted,
    OutOfMemory,
    RemoteError,
    Untrusted,
)
from cumulus.sdk import transport as transport_module
from cumulus.sdk.endpoint import ServerAddress
from tests.sdk.fake_orchestrator import FakeOrchestrator
from tests.waiting import PATIENCE, eventually, poll

pytestmark = pytest.mark.xdist_group("sdk-fake")


def by_value(function: Any) -> Any:
    """The same function as one of `__main__`: this module does not travel."""
    function.__module__ = "__main__"
    return function


@by_value
def add(a: int, b: int = 2) -> int:
    return a + b


TWO_ARGUMENTS = """
class TwoArguments(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code

def fail():
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise TwoArguments(7, "outer") from error
"""


def test_values_and_exceptions(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    assert client.run(add, 1) == 3
    assert client.run(add, 1, b=5, gpu_memory=0.5, duration=60) == 6
    spec = orchestrator.last.document["spec"]
    assert spec["gpu"] == {"memory": 0.5, "duration": 60}
    assert spec["call"]["attended"] == "60s"
    large = bytearray(3_000_000)
    assert client.run(lambda: len(large)) == 3_000_000

    async def later() -> str:
        return "later"

    assert client.run(later) == "later"
    with pytest.raises(ZeroDivisionError) as caught:
        client.run(lambda: 1 // 0)
    assert "client.run(lambda: 1 // 0)" in caught.value.__notes__[0], "the remote traceback has the source line"


def test_an_exception_is_itself_with_its_causes(client: CumulusClient, project: Path) -> None:
    (project / "failing.py").write_text(TWO_ARGUMENTS)
    import failing  # type: ignore[import-not-found]

    with pytest.raises(failing.TwoArguments) as caught:
        client.run(failing.fail)
    assert 'raise TwoArguments(7, "outer")' in caught.value.__notes__[0]
    assert caught.value.code == 7
    assert isinstance(caught.value.__cause__, KeyError)

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as left:
        client.run(leave)
    assert left.value.code == 3


def test_an_exception_that_cannot_be_rebuilt(client: CumulusClient) -> None:
    def fail() -> None:
        class Held(Exception):
            def __reduce__(self) -> Any:
                raise TypeError("no")

        raise Held("text")

    with pytest.raises(RemoteError) as caught:
        client.run(fail)
    assert caught.value.text == "text"
    assert 'raise Held("text")' in caught.value.traceback


def test_what_cannot_be_pickled_is_named(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    with pytest.raises(NotPicklable, match="argument 2 of add, a lock"):
        client.run(add, 1, threading.Lock())
    lock = threading.Lock()
    with pytest.raises(NotPicklable, match="lambda> uses lock from around it, a lock, which can't be pickled: cannot"):
        client.run(lambda: lock)

    def holds() -> bool:
        return lock.locked()

    with pytest.raises(NotPicklable, match="holds uses lock from around it"):
        client.run(lambda: holds())
    assert orchestrator.asked["Submit"] == 0
    with pytest.raises(NotPicklable, match="result"):
        client.run(lambda: {"a": threading.Lock()})


def test_wrong_arguments_are_refused_before_anything_is_sent(
    client: CumulusClient, orchestrator: FakeOrchestrator
) -> None:
    with pytest.raises(TypeError, match=r"add\(\): missing a required argument: 'a'"):
        client.run(add)
    with pytest.raises(UsageError, match=r"gpu_memory: .*20Gi"):
        client.run(add, 1, gpu_memory=20)
    with pytest.raises(UsageError, match="retries=-1"):
        client.run(add, 1, retries=-1)
    with pytest.raises(TypeError, match=r"argument 'gpumemory'; did you mean the option gpu_memory"):
        client.run(add, 1, gpumemory=0.5)
    with pytest.raises(TypeError, match=r"^3 is not callable; pass the function itself"):
        client.run(3)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=r"env=\['A'\] is no mapping"):
        client.run(add, 1, env=["A"])  # type: ignore[call-overload]
    assert orchestrator.asked["Submit"] == 0


def test_a_parameter_with_the_name_of_an_option(client: CumulusClient) -> None:
    @by_value
    def wait(duration: float) -> float:
        return duration

    with pytest.raises(UsageError, match="a parameter duration") as caught:
        client.run(wait, 3)
    assert caught.value.hint is not None
    assert "client.remote(" in caught.value.hint
    assert caught.value.__notes__ == [f"Hint: {caught.value.hint}"], "tracebacks show it"
    assert client.remote(wait, duration="1m")(duration=3) == 3


def test_output_comes_live_and_in_order(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    def talk() -> int:
        for number in range(300):
            print(f"line {number} ü")
        return 1

    printed = io.StringIO()
    orchestrator.cut_after = 500
    with redirect_stdout(printed):
        assert client.run(talk) == 1
    assert printed.getvalue() == "".join(f"line {number} ü\n" for number in range(300))


def test_what_retention_dropped_is_marked(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    call = client.submit(lambda: print("0123456789" * 3))
    call.result()
    orchestrator.last.dropped = 20
    assert "".join(call.logs()) == "[… 20 bytes of output are not kept …]\n0123456789\n"


def test_a_call_outlives_its_client(
    client: CumulusClient, orchestrator: FakeOrchestrator, project: Path, configuration: Path
) -> None:
    call = client.submit(add, 40)
    assert orchestrator.last.document["spec"]["call"].get("attended") is None
    client.close()
    with CumulusClient(orchestrator.address, project=project) as other:
        found = other.attach(call.name)
        assert found.result() == 42
        assert found.status == "Succeeded"
        assert found.done()
        with pytest.raises(NotFound):
            other.attach("nothing")
        key = configuration / "calls.key"
        assert key.stat().st_mode & 0o777 == 0o600
        key.rename(configuration / "elsewhere")
        with pytest.raises(Untrusted, match="which is not here") as caught:
            other.attach(call.name).result()
        assert caught.value.hint is not None
        assert "calls.key" in caught.value.hint
        (configuration / "elsewhere").rename(key)
        key.chmod(0o644)
        with pytest.raises(CumulusError, match="other users"):
            other.attach(call.name).result()


def test_a_forged_result_is_not_unpickled(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.abort, ()

    content = pickle.dumps(Evil())
    import hashlib

    sha256 = hashlib.sha256(content).hexdigest()
    for signature in ("", outcomes.sign(b"x" * 32, "0" * 64, "Returned", sha256)):
        forged = Outcome("Returned", result=sha256, result_size=len(content), signature=signature)
        orchestrator.next_outcome = forged, content
        with pytest.raises(Untrusted):
            client.run(add, 1)
    # A good answer of another call.
    first = client.submit(add, 1)
    first.result()
    answer = orchestrator.last
    assert answer.outcome is not None
    orchestrator.next_outcome = answer.outcome, answer.result
    with pytest.raises(Untrusted):
        client.run(add, 1)
    orchestrator.next_outcome = Outcome(**{**answer.outcome.__dict__, "result": sha256}), content
    with pytest.raises(Untrusted):
        client.run(add, 1)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Outcome("LeaseExpired", text="its lease was over"), LeaseExpired), (Outcome("NodeLost"), NodeLost),
        (Outcome("Crashed", text="signal 11"), Crashed), (Outcome("NotStarted"), NotStarted),
        (Outcome("NotLoaded", type="ModuleNotFoundError", text="No module named 'x'"), NotStarted),
    ],
)  # fmt: skip
def test_what_became_of_it_is_an_exception_of_its_own(
    client: CumulusClient, orchestrator: FakeOrchestrator, outcome: Outcome, error: type[Exception]
) -> None:
    orchestrator.next_outcome = outcome, b""
    with pytest.raises(error, match=outcome.text or outcome.outcome):
        client.run(add, 1)


def test_out_of_memory_tells_sizes(client: CumulusClient) -> None:
    def fail() -> None:
        raise MemoryError("CUDA out of memory")

    os.environ.pop("CHRONOS_MEMORY_BYTES", None)
    with pytest.raises(OutOfMemory) as caught:
        client.run(fail, env={"CHRONOS_MEMORY_BYTES": str(2**30)})
    assert caught.value.leased == 2**30
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_lost_answer_makes_one_job(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    orchestrator.lost_answers = 20
    assert client.run(add, 1) == 3
    assert len(orchestrator.jobs) == 1
    assert orchestrator.asked["Submit"] == 21


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "BACKOFF", Backoff(0.01, 0.01))


def test_a_large_result_goes_on_where_it_was_cut(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    orchestrator.cut_after = 100_000
    assert len(client.run(lambda: os.urandom(300_000))) == 300_000


def test_a_large_argument_goes_on_where_it_was_cut(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    orchestrator.cut_after = 3_000_000
    assert client.run(len, bytes(6_000_000)) == 6_000_000
    assert orchestrator.received < 8_000_000


def test_a_large_argument_is_sent_once(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    data = os.urandom(2_000_000)

    def look(first: bytes, again: bytes, *, named: list[bytes], small: int) -> tuple[int, bool, bool, int]:
        return len(first), first is again, named[0] == first, small

    for small in range(2):
        received = orchestrator.received
        assert client.run(look, data, data, named=[data], small=small) == (2_000_000, True, True, small)
    assert orchestrator.received - received < 10_000
    call = orchestrator.last.document["spec"]["call"]
    assert len(call["arguments"]) == 2
    orchestrator.blobs.clear()
    orchestrator.partial.clear()
    assert client.run(look, data, data, named=[data], small=3)[3] == 3, "it is sent again where it was collected"


def test_the_server_restarts_meanwhile(client: CumulusClient, orchestrator: FakeOrchestrator, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def wait() -> str:
        import time

        print("begun", flush=True)
        while not gate.exists():
            time.sleep(0.02)
        print("ended")
        return "done"

    printed = io.StringIO()

    def restart() -> None:
        eventually(lambda: orchestrator.jobs and orchestrator.last.log, what="the call runs")
        for _ in range(3):
            orchestrator.restart()
        gate.touch()

    thread = threading.Thread(target=restart)
    thread.start()
    with redirect_stdout(printed):
        assert client.run(wait) == "done"
    thread.join()
    assert printed.getvalue() == "begun\nended\n"
    assert len(orchestrator.jobs) == 1


def test_collected_blobs_are_sent_again(client: CumulusClient, orchestrator: FakeOrchestrator, project: Path) -> None:
    (project / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    import helper  # type: ignore[import-not-found]

    assert client.run(helper.double, 4) == 8
    received = orchestrator.received
    assert client.run(helper.double, 4) == 8
    assert orchestrator.received - received < 1000, "the archive is not sent again"
    orchestrator.blobs.clear()
    orchestrator.partial.clear()
    assert client.run(helper.double, 5) == 10


def test_cancel_and_timeout(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    def sleep() -> None:
        import time

        time.sleep(60)

    call = client.submit(sleep)
    with pytest.raises(TimeoutError):
        call.result(timeout=0.2)
    assert call.status == "Running"
    call.cancel()
    call.cancel()
    with pytest.raises(Cancelled):
        call.result()


def test_an_interrupt_cancels_a_run(client: CumulusClient, orchestrator: FakeOrchestrator) -> None:
    def sleep() -> None:
        import time

        print("asleep", flush=True)
        time.sleep(60)

    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), redirect_stdout(Interrupted()):
        client.run(sleep)
    assert orchestrator.last.deleted


def test_a_run_is_attended(client: CumulusClient, orchestrator: FakeOrchestrator, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def wait() -> None:
        import time

        while not gate.exists():
            time.sleep(0.02)

    def open_gate() -> None:
        poll(lambda: orchestrator.jobs and orchestrator.last.attended, PATIENCE)
        gate.touch()

    thread = threading.Thread(target=open_gate)
    thread.start()
    client.run(wait)
    thread.join()
    assert orchestrator.last.attended


def test_asyncio(orchestrator: FakeOrchestrator, project: Path) -> None:
    async def main() -> None:
        async with AsyncCumulusClient(orchestrator.address, project=project) as client:
            assert await asyncio.gather(*(client.run(add, number) for number in range(3))) == [2, 3, 4]
            call = await client.submit(add, 5)
            assert await call == 7
            assert await (await client.attach(call.name)) == 7

            def sleep() -> None:
                import time

                time.sleep(60)

            task = asyncio.create_task(client.run(sleep))
            while len(orchestrator.jobs) < 5:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert orchestrator.last.deleted

    asyncio.run(main())


def test_a_sync_run_within_a_running_loop(client: CumulusClient) -> None:
    async def main() -> None:
        assert client.run(add, 1) == 3

    asyncio.run(main())


def test_a_certificate_that_is_not_trusted_is_told_at_once() -> None:
    class Refused(grpc.RpcError):
        code = staticmethod(lambda: grpc.StatusCode.UNAVAILABLE)
        details = staticmethod(lambda: "failed to connect: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: self signed")
        trailing_metadata = staticmethod(lambda: ())

    error = transport_module.error_of(Refused())
    assert "its certificate is not one that is trusted here" in str(error)
    assert not transport_module.is_passing(error)


def test_a_server_that_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr(transport_module, "FIRST_SECONDS", 0.3)
    monkeypatch.setattr(transport_module, "HELD_SECONDS", 0.15)
    with CumulusClient("127.0.0.1:1", token="x") as client, pytest.raises(ServerUnavailable, match="does not answer"):
        client.run(len, "x")


def test_an_api_that_gives_no_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, project: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(transport_module, "FIRST_SECONDS", 0.3)
    # However long a try took: it was not answered.
    monkeypatch.setattr(transport_module, "HELD_SECONDS", 0.0)
    path = str(tmp_path / "api.sock")
    with unix_socket.listen(path) as listener:
        threading.Thread(target=hang_up, args=(listener,), daemon=True).start()
        address = ServerAddress(f"unix:{tmp_path}/grpc.sock", "default", api=Endpoint("unix", path))
        with CumulusClient(address, project=project) as client, pytest.raises(ServerUnavailable) as caught:
            client.run(len, "x")
    assert "closed the connection before it answered" in str(caught.value)


def hang_up(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.close()


def test_certificates_that_are_none_are_told_at_once(project: Path) -> None:
    address = ServerAddress("127.0.0.1:1", "default", ca="hello", token="x")
    with CumulusClient(address, project=project) as client, pytest.raises(CumulusError, match="can't be read: "):
        client.run(len, "x")


def test_a_closed_client_says_so(client: CumulusClient) -> None:
    client.close()
    with pytest.raises(CumulusError, match="the client is closed"):
        client.run(add, 1)


def generator() -> Iterator[int]:
    yield 1
