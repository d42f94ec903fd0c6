"""`logs` over the files of runs that are over, as the process backend leaves them."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from cumulus import paths
from cumulus.answers.logs import LogBytes
from cumulus.backends.base import Observed, WorkloadState
from cumulus.backends.process import layout
from cumulus.backends.rundir.documents import write_document
from cumulus.backends.rundir.layout import run_directory
from cumulus.backends.rundir.log import FileLog
from cumulus.cli import log_streams
from cumulus.store.base import Document, Key
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import ago, failed, job
from tests.waiting import PATIENCE


def ran(home: Path, document: Document, attempt: int, text: str, *, replica: int = 0) -> None:
    """A run of the job that wrote `text` and is over."""
    uid = document["metadata"]["uid"]
    directory = paths.process_dir(home) / run_directory(uid, attempt, replica)
    directory.mkdir(parents=True)
    (directory / layout.LOCK).touch()
    who: dict[str, Any] = {
        "name": f"{uid}-{attempt}-{replica}", "job_uid": uid, "namespace": "default", "job": "train",
        "attempt": attempt, "replica": replica, "node": "gpu-1",
    }  # fmt: skip
    end = Observed(**who, state=WorkloadState.SUCCEEDED, finished_at=ago(minutes=1))
    write_document(str(directory / layout.SPEC), {**who, "format": layout.FORMAT})
    write_document(str(directory / layout.EXIT), {n: getattr(end, n) for n in Observed.__slots__})
    writer = FileLog(str(directory)).writer()
    writer.append(text.encode())
    writer.seal()


def tried(*attempts: Document, phase: str = "Running") -> Document:
    numbered = [{"number": n, "node": "gpu-1", **a} for n, a in enumerate(attempts, 1)]
    return {"phase": phase, "attemptCount": len(attempts), "attempts": numbered}


def tell(store: SqliteStore, status: Document) -> None:
    store.update_status({**store.get(Key("GPUJob", "default", "train")), "status": status})


BEGUN = {"startTime": ago(minutes=5)}
OVER = {**BEGUN, "endTime": ago(minutes=4)}
START_ERROR = {**OVER, "reason": "StartError", "message": "there is no program tarin"}


def test_what_wrote_nothing_says_why(store: SqliteStore, run: Run, home: Path) -> None:
    made = store.create(job("train", status=tried(START_ERROR, phase="Failed")))
    ran(home, made, 1, "")
    done = run("logs", "train")
    assert (done.code, done.out) == (0, "")
    assert done.err == "Attempt 1 wrote nothing; it ended with StartError: there is no program tarin.\n"
    tell(store, tried(BEGUN))
    assert run("logs", "train").err == "Attempt 1 has written nothing so far.\n"


def test_what_never_started_says_why(store: SqliteStore, run: Run) -> None:
    refused = {"endTime": ago(minutes=4), "reason": "StartRefused", "message": "no such secret"}
    store.create(job("train", status=tried(refused, phase="Failed")))
    for verb in (["logs", "train"], ["logs", "-f", "train"]):
        done = run(*verb)
        assert done.code == 1
        assert "gpujob/train never started: attempt 1 ended with StartRefused: no such secret\n" in done.err
    tell(store, tried(refused, BEGUN))
    assert run("logs", "train", "--attempt=1").err == (
        "error: attempt 1 of gpujob/train never started: StartRefused: no such secret\n"
    )


def test_all_replicas_of_a_gang_each_line_with_its_number(store: SqliteStore, run: Run, home: Path) -> None:
    made = store.create(failed("train", replicas=3))
    for replica in range(3):
        ran(home, made, 1, f"I am {replica}\nbar 1%\rbar 2%\nend", replica=replica)
    lines = [f"train/{n} | {line}" for n in range(3) for line in (f"I am {n}", "bar 1%\rbar 2%", "end")]
    assert run("logs", "train") == (0, "".join(f"{line}\n" for line in lines), "")
    assert sorted(run("logs", "train", "-f").out.split("\n")) == sorted(["", *lines])
    assert run("logs", "train", "--replica=0").out.startswith("I am 0\n")
    assert run("logs", "train", "--replica=3").code == 2


def test_several_jobs_and_a_selector(store: SqliteStore, run: Run, home: Path) -> None:
    for name in ("a", "train"):
        ran(home, store.create(failed(name, labels={"team": "x"})), 1, f"{name}\n")
    store.create(job("waits", labels={"team": "y"}))
    shown = "a     | a\ntrain | train\n"
    assert run("logs", "a", "train").out == run("logs", "-l", "team=x").out == shown
    done = run("logs", "--all")
    assert (done.code, done.out) == (1, shown)
    assert "gpujob/waits has not started yet" in done.err
    assert run("logs", "-l", "team=z") == (0, "", "No jobs found.\n")
    assert run("logs").code == 2
    assert run("logs", "a", "-l", "team=x").code == 2


def test_the_attempt_before(store: SqliteStore, run: Run, home: Path) -> None:
    made = store.create(job("train", status=tried({**OVER, "reason": "Error"}, BEGUN)))
    ran(home, made, 1, "one\n")
    ran(home, made, 2, "two\n")
    assert run("logs", "train", "-p").out == "one\n"
    assert run("logs", "train").out == "two\n"
    tell(store, tried(BEGUN))
    assert "has no attempt before the last" in run("logs", "train", "-p").err
    assert run("logs", "train", "-p", "--attempt", "1").code == 2


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("chunks", "shown"),
    [
        ([b"a\nb", b"c\n"], ["a", "bc"]),
        ([b"0%\r50%\r100%\n"], ["100%"]),
        ([b"0%\r50%\r"], ["50%"]),
        ([b"dos\r\n"], ["dos"]),
        ([b"\x1b]0;title\x07x\n"], ["\\x1b]0;title\\x07x"]),
    ],
)  # fmt: skip
def test_several_logs_on_a_terminal(monkeypatch: pytest.MonkeyPatch, chunks: list[bytes], shown: list[str]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal(io.BytesIO(), "utf-8")
    log_streams.show([log_streams.LogSource("t", lambda: iter([LogBytes(1, c) for c in chunks]))], out, follow=False)
    assert out.buffer.getvalue().decode() == "".join(f"t | {line}\n" for line in shown)  # type: ignore[attr-defined]


def test_following_ends_with_the_job_and_says_how(store: SqliteStore, run: Run, home: Path) -> None:
    made = store.create(failed("train"))
    ran(home, made, 1, "one\n")
    assert run("logs", "train", "-f") == (
        0,
        "one\n",
        "Attempt 1 ended with Error, exit code 3.\n",
    )
    assert run("logs", "train", "--tail=0") == (0, "", "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ one\n", run("logs", "train", "--timestamps").out)
    assert run("logs", "train", "--since=1h").out == "one\n"
    assert run("logs", "train", "--since=soon").code == 2
    done = tried({**OVER, "exitCode": 0, "reason": "Completed"}, phase="Succeeded")
    tell(store, done)
    assert run("logs", "train", "-f") == (0, "one\n", "")


def test_following_without_a_daemon_does_not_wait_for_what_nobody_tells(
    store: SqliteStore, run: Run, home: Path
) -> None:
    made = store.create(job("train", status=tried(BEGUN)))
    ran(home, made, 1, "one\n")
    done = run("logs", "train", "-f")
    assert (done.code, done.out) == (0, "one\n")
    assert done.err == f"No daemon runs on {home}; how the attempt ended is told once `cumulus serve` is started.\n"


@pytest.mark.usefixtures("served")
def test_following_goes_on_from_attempt_to_attempt(store: SqliteStore, home: Path) -> None:
    made = store.create(job("train", status=tried(BEGUN)))
    ran(home, made, 1, "one\n")
    command = [sys.executable, "-m", "cumulus.cli.main", "logs", "-f", "train"]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with follower, _killed(follower):
        out, err = follower.stdout, follower.stderr
        assert out is not None
        assert err is not None
        assert out.readline() == "one\n"
        first = {**OVER, "exitCode": 3, "reason": "Error"}
        tell(store, tried(first, phase="Pending"))
        _until(err, "Attempt 1 ended with Error, exit code 3.")
        _until(err, "waiting for gpujob/train to start: Pending")
        ran(home, made, 2, "")
        tell(store, tried(first, BEGUN))
        _until(err, "Attempt 2 of gpujob/train:")
        ran(home, made, 3, "three\n")
        last = {**OVER, "exitCode": 0, "reason": "Completed"}
        tell(store, tried(first, START_ERROR, last, phase="Succeeded"))
        _until(err, "Attempt 2 wrote nothing; it ended with StartError: there is no program tarin.")
        assert err.read() == "Attempt 3 of gpujob/train:\n"
        assert out.read() == "three\n"
        assert follower.wait(PATIENCE) == 0


@contextmanager
def _killed(process: subprocess.Popen[str]) -> Iterator[None]:
    """It ends with the test, however that ends."""
    try:
        yield
    finally:
        process.kill()


def _until(lines: IO[str], wanted: str) -> None:
    """Raises AssertionError where it ends first."""
    seen = []
    for line in lines:
        seen.append(line)
        if line == f"{wanted}\n":
            return
    raise AssertionError("".join(seen))
