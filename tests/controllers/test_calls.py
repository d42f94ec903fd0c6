"""What came of a call is in its job's last status, its result in the blobs of its submitter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import CallResult, Workload
from cumulus.blob.base import BlobLimits
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.calls import outcome as outcomes
from cumulus.calls.outcome import Outcome
from cumulus.clock import timestamp
from cumulus.controllers.job.results import call_status
from cumulus.errors import NodeUnreachable, StoreUnavailable
from cumulus.resources.job import Attempt, GPUJob, GPUJobStatus, HostResources, RetryPolicy
from cumulus.resources.job_call import Call, CallStatus
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_UID
from cumulus.testing.backend import Script
from cumulus.testing.faults import Faults
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.faulty import FaultyStore
from tests.controllers.objects import a_job

RESULT = b"the pickle of a result"
SHA256 = hashlib.sha256(RESULT).hexdigest()
ALICE = "1000:alice"


def a_call(name: str = "fit", **spec: Any) -> GPUJob:
    call = Call(payload="a" * 64, python="3.11")
    made = a_job(name, command=(), call=call, **spec)
    annotations = {SUBMITTER: "alice", SUBMITTER_UID: "1000"}
    return made.replace(metadata=made.metadata.model_copy(update={"annotations": annotations}))


class Calls(World):
    """Calls behave as `script` says, and leave what `left` says, where they end with exit code 0 that is a result."""

    def __init__(self, directory: Path, script: Script = Script(), limits: BlobLimits = BlobLimits()) -> None:
        super().__init__(script=lambda work: script, blobs=DirectoryBlobStore(directory, limits))
        self.asked = 0
        self.backend.faults.hook = lambda call, subject, when: self._ask(call)
        self.ask: Callable[[], None] = lambda: None

    def _ask(self, call: str) -> None:
        if call == "result":
            self.asked += 1
            self.ask()

    def run(self, job: GPUJob, daemon: Daemon | None = None) -> CallStatus:
        self.apply(job)
        drive(self, daemon or Daemon(self), until=lambda: self.job(job.metadata.name).status.phase.finished, within=9e4)
        found = self.job(job.metadata.name).status.call
        assert found is not None
        return found

    def content(self, owner: str = ALICE) -> bytes:
        assert self.blobs is not None
        return b"".join(self.blobs.open(owner, SHA256))


def test_the_result_is_a_blob_of_the_submitter(tmp_path: Path) -> None:
    world = Calls(tmp_path)
    found = world.run(a_call())
    assert (found.outcome, found.attempt, found.result, found.result_size) == ("Returned", 1, SHA256, len(RESULT))
    assert world.content() == RESULT
    assert world.blobs is not None
    assert world.blobs.find("0:root", SHA256) is None
    assert world.job("fit").status.phase is JobPhase.SUCCEEDED
    assert world.backend.started


def test_a_crash_before_the_last_write_changes_nothing(tmp_path: Path) -> None:
    world = Calls(tmp_path)

    def fail(call: str, subject: str, when: str) -> None:
        if world.asked and when == "before":
            raise StoreUnavailable("the disk is full")

    faults = Faults()
    faults.hook = fail  # type: ignore[assignment]
    store = FaultyStore(world.store, faults)
    world.apply(a_call())
    daemon = Daemon(world, store=store)  # type: ignore[arg-type]
    drive(world, daemon, until=lambda: world.asked > 0)
    settle(world, daemon)
    assert world.job("fit").status.call is None
    assert not world.job("fit").status.phase.finished
    settle(world, seconds=60)
    drive(world, Daemon(world, "b"), until=lambda: world.job("fit").status.phase.finished)
    found = world.job("fit").status.call
    assert found is not None
    assert (found.result, world.content()) == (SHA256, RESULT)


@pytest.mark.parametrize(
    ("script", "spec", "outcome", "text"),
    [
        (Script(exit_code=3), {}, outcomes.CRASHED, "its process ended without an answer, with exit code 3"),
        (Script(exit_code=139), {}, outcomes.CRASHED, "without an answer, with exit code 139 (SIGSEGV)"),
        (Script(exit_code=3), {"retry": RetryPolicy(limit=1)}, outcomes.CRASHED, "its process ended without an answer"),
        (Script(seconds=math.inf), {}, outcomes.LEASE_EXPIRED, "attempt 1 ended: LeaseExpired"),
        (Script(seconds=math.inf), {"active_deadline": "60s"}, outcomes.DEADLINE, "activeDeadline was over"),
        (Script(refused="no Python 3.11"), {}, outcomes.NOT_STARTED, "no Python 3.11"),
    ],
)
def test_a_call_without_an_answer_says_why(
    tmp_path: Path, script: Script, spec: dict[str, Any], outcome: str, text: str
) -> None:
    found = Calls(tmp_path, script).run(a_call(**spec))
    assert (found.outcome, found.result) == (outcome, "")
    assert text in found.text


def test_a_function_that_returns_after_the_stop_signal_is_not_called_again(tmp_path: Path) -> None:
    world = Calls(tmp_path, Script(seconds=math.inf, stop_seconds=2, stop_code=0))
    world.run(a_call(duration="60s", checkpoint=Checkpoint(path="saved")))
    assert world.job("fit").status.phase is JobPhase.SUCCEEDED
    assert world.job("fit").status.attempt_count == 1


def test_a_call_that_never_had_its_turn(tmp_path: Path) -> None:
    world = Calls(tmp_path, Script(seconds=math.inf))
    world.apply(a_job("first", memory="1.0", duration="5m"))
    daemon = Daemon(world)
    settle(world, daemon, seconds=5)
    found = world.run(a_call(active_deadline="60s", suspend=False), daemon)
    assert found.outcome in (outcomes.DEADLINE, outcomes.LEASE_EXPIRED)


def test_a_node_that_is_silent_for_a_while_is_waited_for(tmp_path: Path) -> None:
    world = Calls(tmp_path)

    def silent() -> None:
        if world.asked < 10:
            raise NodeUnreachable("node-1 does not answer")

    world.ask = silent
    assert world.run(a_call()).outcome == outcomes.RETURNED
    assert world.content() == RESULT


def test_a_node_that_stays_silent_loses_the_result(tmp_path: Path) -> None:
    world = Calls(tmp_path)

    def silent() -> None:
        raise NodeUnreachable("node-1 does not answer")

    world.ask = silent
    found = world.run(a_call())
    assert (found.outcome, found.text) == (outcomes.NODE_LOST, "its result was lost: node-1 does not answer")
    assert world.job("fit").status.phase is JobPhase.SUCCEEDED


def test_a_result_without_room_is_told(tmp_path: Path) -> None:
    world = Calls(tmp_path, limits=BlobLimits(largest=10))
    found = world.run(a_call())
    assert (found.outcome, found.result) == (outcomes.NOT_KEPT, "")
    assert "its result could not be kept: " in found.text


def test_a_result_that_was_changed_is_told(tmp_path: Path) -> None:
    world = Calls(tmp_path)
    honest = world.backend.result
    world.backend.result = lambda *of: _forged(honest(*of))  # type: ignore[method-assign]
    found = world.run(a_call())
    assert (found.outcome, found.text) == (outcomes.CRASHED, "its result is not what it said it is")


def _forged(found: CallResult | None) -> CallResult:
    assert found is not None
    return CallResult(found.outcome, iter([b"x" * found.outcome.result_size]))


def test_a_result_that_breaks_off_is_fetched_again(tmp_path: Path) -> None:
    world = Calls(tmp_path)
    honest = world.backend.result

    def cut(*of: Any) -> CallResult | None:
        found = honest(*of)
        assert found is not None
        return found if world.asked > 2 else CallResult(found.outcome, iter([RESULT[:3]]))

    world.backend.result = cut  # type: ignore[method-assign]
    assert world.run(a_call()).outcome == outcomes.RETURNED
    assert world.content() == RESULT


def test_an_answer_that_is_none_is_told(tmp_path: Path) -> None:
    world = Calls(tmp_path)

    def nonsense() -> None:
        raise ValueError("outcome is no JSON")

    world.ask = nonsense
    assert world.run(a_call()).text == "what it left as its answer is none: outcome is no JSON"


def test_an_exception_in_clear_is_in_the_status(tmp_path: Path) -> None:
    world = Calls(tmp_path, Script(exit_code=1))
    raised = Outcome(outcomes.RAISED, "builtins.KeyError", "'row'", "Traceback …", "", 0, "", 0, 0)
    world.backend.result = lambda *of: CallResult(raised, iter(()))  # type: ignore[method-assign]
    found = world.run(a_call())
    assert (found.outcome, found.type, found.text, found.traceback) == (
        "Raised", "builtins.KeyError", "'row'", "Traceback …",
    )  # fmt: skip
    assert world.job("fit").status.phase is JobPhase.FAILED


def test_the_machine_ran_out_of_memory(tmp_path: Path) -> None:
    world = Calls(tmp_path)
    world.apply(a_call(resources=HostResources(memory="1Gi")))
    ended = Attempt(number=2, end_time=timestamp(world.clock.now()), reason="OOMKilled", message="it used 2 GiB")
    status = GPUJobStatus(attempts=(ended,))
    found = call_status(world.job("fit"), status, world.backend, world.blobs, world.clock.now())
    assert (found.outcome, found.leased, found.text, found.attempt) == (
        outcomes.OUT_OF_MEMORY,
        2**30,
        "it used 2 GiB",
        2,
    )


def test_the_workload_of_a_call_names_its_blobs_and_their_owner(tmp_path: Path) -> None:
    world = Calls(tmp_path, Script(seconds=1000))
    started: list[Workload] = []
    begin = world.backend.start
    world.backend.start = lambda work: (started.append(work), begin(work))[1]  # type: ignore[func-returns-value, method-assign]
    world.run(a_call())
    [work] = started
    assert work.call is not None
    assert (work.command, work.call.owner, work.call.payload, work.call.python) == ((), ALICE, "a" * 64, "3.11")
