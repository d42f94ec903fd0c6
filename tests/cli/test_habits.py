"""What people type out of habit: -f and -L, help, api-resources, the end of jobs, dry runs."""

from __future__ import annotations

import json
import socket
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from cumulus.answers.queue import Line, Waiting
from cumulus.answers.usage import DeviceUse, UsageNow
from cumulus.cli import others_words
from cumulus.cli.main import VERBS
from cumulus.cli.verbs import queue, top
from cumulus.clock import FakeClock, timestamp
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import active, failed, job, node, partition, running

FILE = """\
apiVersion: cumulus.dev/v1alpha1
kind: GPUJob
metadata: {name: train}
spec: {command: ["true"], gpu: {memory: 1Gi, duration: 1h}}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(FILE)
    return str(path)


def succeeded(name: str) -> dict[str, object]:
    return job(name, status={"phase": "Succeeded", "conditions": [{"type": "Succeeded", "status": "True"}]})


def test_the_end_of_jobs_good_or_bad(store: SqliteStore, run: Run, file: str) -> None:
    store.create(succeeded("train"))
    done = run("wait", "-f", file, "--for=finished")
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train Succeeded\n")
    store.create(failed("bad"))
    done = run("wait", "jobs", "--all", "--for=finished")
    assert done.code == 3
    assert "gpujob.cumulus.dev/bad Failed (Error: attempt 1 ended with exit code 3)\n" in done.out
    store.create(running("busy"))
    assert run("wait", "job/busy", "--for=finished", "--timeout=0").code == 1
    assert run("wait", "node/gpu-1", "--for=finished").code == 2


def test_objects_of_files_and_label_columns(store: SqliteStore, run: Run, file: str) -> None:
    assert run("get", "-f", file).code == 1
    assert run("get", "-f", file, "--ignore-not-found") == (0, "", "")
    store.create(job("train", labels={"team": "x", "a.b/rack": "7"}))
    lines = run("get", "-f", file, "-L", "team,a.b/rack").out.splitlines()
    assert lines[0].split()[-2:] == ["TEAM", "RACK"]
    assert lines[1].split()[-2:] == ["x", "7"]
    assert run("get", "job", "train", "-f", file).code == 2


def test_a_deletion_that_is_only_tried(store: SqliteStore, run: Run) -> None:
    store.create(job("train"))
    done = run("delete", "jobs", "--all", "--dry-run=server")
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train deleted (server dry run)\n")
    # Without a value, wherever it stands.
    assert run("delete", "--dry-run", "job", "train").out == run("delete", "job/train", "--dry-run").out == done.out
    assert "there is no dry run 'client'" in run("delete", "job", "train", "--dry-run", "client").err
    assert run("get", "job", "train").code == 0
    assert run("delete", "job", "nope", "--dry-run=server").code == 1


def test_kinds_versions_and_help(store: SqliteStore, run: Run) -> None:
    assert "gpujobs" in run("api-resources").out
    assert "gpujobs.cumulus.dev\n" in run("api-resources", "-o", "name").out
    assert "cumulus: " in run("version", "--client", "-o", "yaml").out
    assert json.loads(run("version", "--client", "-o", "json").out)["apiVersion"] == "cumulus.dev/v1alpha1"
    assert run("help", "node", "drain").out == run("node", "drain", "--help").out
    assert run("help").out == run("--help").out
    assert run("help", "nope").code == 2
    store.create(node("gpu-1"))
    assert run("drain", "gpu-1").out == "gpunode.cumulus.dev/gpu-1 drained\n"


def test_each_suggestion_is_a_command_of_ours() -> None:
    for theirs, ours in others_words._WORDS.items():
        assert ours.split()[0] in VERBS, (theirs, ours)
        assert theirs not in VERBS, theirs


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["squeue", "-u", "me"], "queue"), (["sbatch", "x.sh"], "run -d -- PROGRAM"),
        (["scancel", "7"], "delete job NAME"), (["sinfo"], "get nodes"), (["srun", "x"], "run -- PROGRAM"),
        (["ps"], "get jobs"), (["kill", "x"], "delete job NAME --now"), (["sky", "launch"], "run -- PROGRAM"),
        (["scontrol", "hold", "7"], "suspend JOB"), (["docker", "logs", "x"], "logs"), (["sky"], ""), (["xyzzy"], ""),
    ],
)  # fmt: skip
def test_words_of_others(theirs: list[str], ours: str) -> None:
    assert others_words.meant(theirs, list(VERBS)) == ours


def test_who_could_start_now_starts_now(store: SqliteStore, run: Run, still: None) -> None:
    store.create(node("gpu-1"))
    store.create(partition("waits"))
    done = run("queue")
    row = done.out.splitlines()[1].split()
    assert (done.code, row[:2], row[-2:]) == (0, ["1", "default/waits"], ["~", "now"]), done


def test_why_some_cannot_start_is_said_once_below_the_line(store: SqliteStore, run: Run, still: None) -> None:
    store.create(node("gpu-1"))
    for name, wanted in (("a", {"memory": "900Gi"}), ("b", {"memory": "900Gi"}), ("fits", {})):
        store.create(partition(name, **wanted))
    done = run("queue")
    _, *rows, said = (" ".join(line.split()) for line in done.out.splitlines())
    assert [row.endswith(" cannot start (1)") for row in rows] == [True, True, False], done
    assert said == "(1) no ready node could hold it even with nothing else there"


def test_a_narrow_terminal_has_room_for_who_waits_and_both_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime(2030, 1, 31, 13, tzinfo=UTC)
    soon, late = timestamp(now + timedelta(minutes=22)), timestamp(now + timedelta(minutes=104))
    one = Waiting(1, "vision", "default/v1", "alice", "50%", 3600, soon, late, promised=True, reason="")
    monkeypatch.setattr(queue, "SystemClock", lambda: FakeClock(now))
    monkeypatch.setattr(
        queue.context, "client", lambda: nullcontext(SimpleNamespace(line=lambda name: Line((one,), 0, ())))
    )
    monkeypatch.setattr(queue.safe_output, "width", lambda stream: 80)
    queue.queue()
    heading, row = (line.split("  ") for line in capsys.readouterr().out.splitlines()[-2:])
    cells = [cell.strip() for cell in row if cell.strip()]
    assert cells[:2] == ["1", "default/v1"]
    assert cells[-2:] == ["in 22m", "2030-01-31T14:44:00Z, in 1h44m"]
    assert "USER" in " ".join(heading)
    assert "alice" in cells


def test_top(store: SqliteStore, run: Run, still: None) -> None:
    there = node("gpu-1")
    there["status"]["devices"][0] |= {
        "figures": {"usedMemoryBytes": 10 * 2**30, "busy": 420, "powerWatts": 300.5, "temperatureCelsius": 61},
        "overusedMemoryBytes": 2**30, "unleasedProcesses": [{"pid": 7, "user": "eve", "memoryBytes": 2**30}],
    }  # fmt: skip
    store.create(there)
    held = active("train-a1-r0-d0", owner=store.create(running("train")))
    held["metadata"]["annotations"] = {"cumulus.dev/submitter": "ann\x1b[2J"}
    store.create(held)
    titles, row = (" ".join(line.split()) for line in run("top").out.splitlines())
    assert titles == "NODE DEVICE LEASED USED IDLE OVER UNLEASED COMPUTE BUSY POWER TEMP STATE"
    assert row == "gpu-1 0 H100 40Gi 50% 10Gi 12% 30Gi 37% 1Gi 1Gi 50% 42% 300W 61C Ready (Answers)"
    mine = " ".join(run("top", "jobs").out.splitlines()[1].split())
    assert mine == r"default train ann\x1b[2J gpu-1 1 40Gi 50% 55m -"
    assert run("top", "users", "--no-headers").out.split() == ["ann\\x1b[2J", "1", "1", "40Gi", "50%"]
    (device,) = json.loads(run("top", "nodes", "-o", "json").out)
    assert (device["usedBytes"], device["temperatureCelsius"]) == (10 * 2**30, 61)
    assert json.loads(run("top", "users", "-o", "json").out)[0]["memoryBytes"] == 40 * 2**30
    assert run("top", "pods").code == 2


def test_a_share_is_shown_as_it_was_asked_for() -> None:
    whole = 18_616_639_488
    use = DeviceUse("vm", 0, "CPU", "Ready", whole, whole * 5 // 100, 50)
    assert top._device(use)[2] == "887.7Mi 5%"


def test_the_screen_of_top_cuts_no_title() -> None:
    use = DeviceUse("gpu-1", 0, "NVIDIA H200 " * 3, "Ready (Answers)", 2**37, 2**36, 500, 2**35, 0, 2**30)
    for room in (40, 80, 200):
        title, heading, row = top._picture(
            "nodes", UsageNow("2026-11-30T02:00:00Z", (use,), ()), room
        ).plain.splitlines()
        left_out = title.partition("no room for ")[2].replace(" and ", ", ").split(", ") if "no room" in title else []
        assert bool(left_out) == (room < 200)
        assert sorted([*heading.split(), *left_out]) == sorted(
            [
                "NODE",
                "DEVICE",
                "LEASED",
                "USED",
                "IDLE",
                "OVER",
                "UNLEASED",
                "COMPUTE",
                "BUSY",
                "POWER",
                "TEMP",
                "STATE",
            ]
        )
        assert row.startswith("gpu-1")
        assert room < 80 or len(row) <= room


def test_a_port_of_a_job_that_has_ended_is_not_waited_for(store: SqliteStore, run: Run) -> None:
    store.create(succeeded("train"))
    done = run("port-forward", "train", "0:80")
    assert (done.code, done.out) == (1, "")
    assert done.err == ("error: gpujob/train has ended: nothing listens there; run it again: cumulus rerun train\n")


def test_a_port_that_is_taken_is_told_in_the_systems_words(store: SqliteStore, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("port-forward", "train", f"{port}:80")
    said = f"error: port {port} of 127.0.0.1 can't be used: Address already in use; LOCAL:PORT names another\n"
    assert (done.code, done.err) == (1, said)
