"""Checkpoints of containers: copied beyond their node by a process of it, and fetched to it before the next attempt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cumulus.answers.checkpoints import CheckpointBytes
from cumulus.backends import preparing
from cumulus.backends.base import Checkpointing, Workload, WorkloadMount, WorkloadState
from cumulus.errors import BackendRefused
from cumulus.infrastructure.checkpoints import on_node
from cumulus.uploader import catalog
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.place import CheckpointName
from tests.swarm.bed import SwarmBed
from tests.swarm.control import Control, job
from tests.uploader.saves import loaded, save
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]
SMALL = {"weights": b"w" * 100_000, "optimizer/state": b"o"}


class Jobs:
    """Runs of one job, which keep what they find in a directory that each node has for itself."""

    def __init__(self, bed: SwarmBed, directory: Path) -> None:
        self.bed = bed
        self.ready = directory / "ready"
        self.place = f"/run/checkpoints-{bed.instance}"
        self.shared = directory / "shared"
        for node in bed.lab.nodes.values():
            node.inside("mkdir", "-m", "700", self.place)

    def saved(self, step: int, token: int) -> None:
        """What `cp -a /ready/… /c` saves."""
        self.ready.mkdir(exist_ok=True)
        save(self.ready, step, SMALL, token=token)

    def work(self, script: str, attempt: int = 1, node: str = "worker1", *, uri: str = "file", **more: Any) -> Workload:
        asked = Checkpointing(keep=2, uri=f"file://{self.shared}" if uri == "file" else uri, named=bool(uri))
        mounts = (WorkloadMount(self.place, "/data"), WorkloadMount(str(self.ready), "/ready", True))
        return self.bed.work(
            "sh", "-c", script, attempt=attempt, node=node, mounts=mounts, checkpoint_path="/data/c",
            checkpointing=asked, **more,
        )  # fmt: skip

    def run(self, work: Workload) -> str:
        self.bed.backend.start(work)
        end = self.bed.finish(work)
        assert end.state is WorkloadState.SUCCEEDED, end
        return self.bed.log(work).decode()

    def steps(self) -> list[CheckpointName]:
        return [one.name for one in catalog.committed(DirectoryPlace(str(self.shared)))]


@pytest.fixture
def jobs(bed: SwarmBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    # However busy the machine is, a start tells why there is none.
    monkeypatch.setattr(preparing, "WAIT_SECONDS", PATIENCE)
    return Jobs(bed, tmp_path)


SAVE = "mkdir -p -m 700 /data/c && cp -a /ready/step-* /data/c/"
TELL = "ls /data/c; cat /data/c/step-*/optimizer/state; echo; "


def test_what_a_container_saves_is_copied_and_fetched_on_the_next_node(jobs: Jobs) -> None:
    jobs.saved(5, 1)
    jobs.bed.backend.start(first := jobs.work(f"{SAVE}; while [ ! -e /data/go ]; do sleep 0.1; done"))
    # While it runs, and the node tells how far it is.
    jobs.bed.running(first)
    eventually(lambda: jobs.steps() == [CheckpointName(1, 5)])
    jobs.bed.lab.nodes["worker1"].inside("touch", f"{jobs.place}/go")
    found = jobs.bed.finish(first).checkpoint
    assert found is not None
    assert (found.step, found.uploaded, found.upload_error) == (5, 5, "")
    # The node where it was is gone for good: what it saved is not.
    jobs.bed.lab.nodes["worker1"].inside("rm", "-r", f"{jobs.place}/c")
    assert "step-000000000005\no\n" in jobs.run(jobs.work(TELL, 2, "worker2"))


def test_the_last_nodes_own_comes_first_and_needs_no_place(jobs: Jobs) -> None:
    jobs.saved(7, 1)
    jobs.run(jobs.work(SAVE, uri=""))
    assert "step-000000000007\no\n" in jobs.run(jobs.work(TELL, 2, "worker2", uri=""))
    # One that is damaged is not taken, and the attempt begins all the same.
    jobs.bed.lab.nodes["worker2"].inside("sh", "-c", f"echo x >> {jobs.place}/c/step-000000000007/weights")
    assert "step-" in jobs.run(jobs.work("ls /data/c", 3, "worker1", uri=""))


def test_a_node_that_cannot_copy_them_says_so_before_the_start(jobs: Jobs) -> None:
    with pytest.raises(BackendRefused, match="no place for checkpoints"):
        jobs.bed.backend.start(jobs.work("true", uri="s3://bucket"))
    jobs.bed.engines["worker1"]._chronos = "/nowhere/chronos_cli"
    try:
        with pytest.raises(BackendRefused, match=r"copies no checkpoints: .*not found"):
            jobs.bed.backend.start(jobs.work("true", job="other"))
    finally:
        jobs.bed.engines["worker1"]._chronos = jobs.bed.engines["worker2"]._chronos


def test_a_place_of_another_job_is_refused(jobs: Jobs) -> None:
    jobs.saved(3, 1)
    jobs.run(jobs.work(SAVE))
    eventually(lambda: jobs.steps() == [CheckpointName(1, 3)])
    with pytest.raises(BackendRefused, match="has checkpoints of another job already, the last of step 3"):
        jobs.bed.backend.start(jobs.work("true", job="other"))


def test_a_job_goes_on_from_anothers_last_checkpoint(jobs: Jobs) -> None:
    jobs.saved(9, 4)
    jobs.run(jobs.work(SAVE, uri=""))
    # With a directory of its own on the other node, and a token that its own saves outrank.
    jobs.bed.lab.nodes["worker2"].inside("mkdir", "-p", f"{jobs.place}/c")
    work = jobs.work("grep -o token.:0 /data/c/step-*/manifest.json", 1, "worker2", uri="", job="next")
    asked = Checkpointing(keep=2, after="uid-job", after_path="/data/c")
    assert "token" in jobs.run(replace(work, checkpointing=asked))
    nothing = Checkpointing(keep=2, after="uid-of-nobody", after_path="/data/c")
    jobs.bed.lab.nodes["worker2"].inside("rm", "-r", f"{jobs.place}/c")
    third = replace(jobs.work("true", 1, "worker2", uri="", job="third"), checkpointing=nothing)
    with pytest.raises(BackendRefused, match=r"checkpoint\.from: there is no whole checkpoint"):
        jobs.bed.backend.start(third)


def test_they_are_listed_fetched_and_pruned_where_they_are(jobs: Jobs) -> None:
    jobs.saved(1, 1)
    jobs.saved(2, 1)
    jobs.run(work := jobs.work(SAVE, uri=""))
    node, path, user = jobs.bed.backend.checkpoint_place(work.job_uid) or ("", "", None)
    assert (node, path) == ("worker1", f"{jobs.place}/c")
    files = on_node(path, jobs.bed.engines[node].checkpoints, user)
    assert [(one.step, one.problem) for one in files.list()] == [(2, ""), (1, "")]
    assert [one.problem for one in files.verify(1)] == [""]
    got = b"".join(piece.data for piece in files.send(2) if isinstance(piece, CheckpointBytes))
    assert sorted(got) == sorted(b"".join(SMALL.values()))
    assert files.prune(1) == [1]


def test_the_whole_way_through_the_daemon(control: Control, tmp_path: Path) -> None:
    """Over SSH, with the node's own chronos_cli: saved, copied, found by the next attempt, listed and fetched."""
    ready, place = tmp_path / "ready", f"/run/whole-{tmp_path.name[-12:]}"
    ready.mkdir()
    save(ready, 5, SMALL, token=1)
    for node in control.lab.nodes.values():
        node.inside("mkdir", "-p", "-m", "700", place)
    script = f"if ls -d /data/c/step-*; then cat /data/c/step-*/optimizer/state; exit 0; fi; {SAVE}; exit 75"
    made = job(
        "whole", script, mounts=[{"source": place, "target": "/data"}, {"source": str(ready), "target": "/ready"}],
        checkpoint={"path": "/data/c", "uri": f"file://{tmp_path}/shared"},
    )  # fmt: skip
    control.apply(made)
    control.ok("wait", "gpujob/whole", "--for=condition=Succeeded", "--timeout=200s")
    assert "step-000000000005\no" in control.ok("logs", "whole")
    assert [attempt["reason"] for attempt in control.attempts("whole")][:1] == ["Saved"]
    found = control.get("job", "whole")["status"]["checkpoint"]
    assert (found["step"], found["uri"]) == (5, f"file://{tmp_path}/shared")
    shared = DirectoryPlace(str(tmp_path / "shared"))
    eventually(lambda: [one.name for one in catalog.committed(shared)] == [CheckpointName(1, 5)])
    listed = control.ok("checkpoints", "whole")
    assert listed.splitlines()[1].split()[0] == "5"
    control.ok("checkpoints", "fetch", "whole", "--to", str(tmp_path / "got"))
    assert loaded(tmp_path / "got", 5) == SMALL
