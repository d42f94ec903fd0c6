"""The directories that are made for a job: where they are, and that they go with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.store.base import Document, Query
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import failed, running

pytestmark = pytest.mark.usefixtures("still")

ALL = Query(kind="GPUJob")


def place(home: Path, document: Document) -> Path:
    return home / "process" / "jobs" / str(document["metadata"]["uid"])


def work(home: Path, document: Document, *runs: str, file: str = "") -> None:
    for run in runs:
        directory = place(home, document) / run / "work"
        directory.mkdir(parents=True)
        if file:
            (directory / file).touch()


class TestDescribe:
    def test_paths_by_attempt_and_replica(self, store: SqliteStore, run: Run, home: Path) -> None:
        document = store.create(running("train"))
        work(home, document, "a10-r0", "a2-r1", "a2-r0")
        (place(home, document) / "checkpoint").mkdir()
        at = place(home, document)
        lines = run("describe", "job", "train").out.splitlines()
        found = lines.index(f"Directories:   {at}/a2-r0/work")
        assert lines[found + 1 : found + 4] == [
            f"               {at}/a2-r1/work",
            f"               {at}/a10-r0/work",
            "Files go:      with the job, when it is deleted",
        ]

    def test_of_many_the_latest(self, store: SqliteStore, run: Run, home: Path) -> None:
        document = store.create(running("train"))
        work(home, document, *(f"a{n}-r0" for n in range(1, 12)))
        out = run("describe", "job", "train").out
        assert f"Directories:   3 earlier ones in {place(home, document)}\n" in out
        assert "/a3-r0/work" not in out
        assert "/a4-r0/work" in out

    def test_when_they_go(self, store: SqliteStore, run: Run, home: Path) -> None:
        for name, document in (("a", running("a", ttlAfterFinished="1h")), ("b", failed("b", ttlAfterFinished="1h"))):
            work(home, store.create(document), "a1-r0")
            assert name in run("describe", "job", name).out
        assert (
            "Files go:      with the job, 1h after it finished, or when it is deleted\n" in run("describe", "job/a").out
        )
        assert "Files go:      with the job, at 2030-01-01T12:56:00Z (in 56m)\n" in run("describe", "job/b").out

    def test_none(self, store: SqliteStore, run: Run) -> None:
        store.create(running("train"))
        assert "Files go" not in run("describe", "job", "train").out


class TestDelete:
    def test_says_which_files_go_and_when(self, store: SqliteStore, run: Run, home: Path) -> None:
        document = store.create(failed("train"))
        work(home, document, "a1-r0", file="model.pt")
        done = run("delete", "job", "train")
        assert done.out == "gpujob.cumulus.dev/train deleted\n"
        told = f"The files in {place(home, document)} go with job train, once its processes have ended.\n"
        assert done.err == told

    def test_says_nothing_where_there_are_none(self, store: SqliteStore, run: Run, home: Path) -> None:
        work(home, store.create(failed("train")), "a1-r0")
        assert run("delete", "job", "train").err == ""

    def test_of_many_jobs_in_one_line(self, store: SqliteStore, run: Run, home: Path) -> None:
        for n in range(8):
            document = store.create(failed(f"job-{n}"))
            if n:
                work(home, document, "a1-r0", file="x")
            else:
                (place(home, document) / "checkpoint").mkdir(parents=True)
        at = home / "process" / "jobs"
        assert run("delete", "jobs", "--all").err == (
            f"The files of 7 jobs in {at} go with them, once their processes have ended: "
            "job-1, job-2, job-3, job-4, job-5, 2 more.\n"
        )

    def test_prune_says_so_too(self, store: SqliteStore, run: Run, home: Path, tmp_path: Path) -> None:
        manifest = tmp_path / "jobs.yaml"
        text = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\nmetadata: {name: NAME, labels: {app: x}}\n"
        text += "spec: {command: [a], gpu: {memory: 1Gi, duration: 1h}}\n"
        manifest.write_text("---\n".join(text.replace("NAME", name) for name in ("keep", "go")))
        assert run("apply", "-f", str(manifest)).code == 0
        [document] = [d for d in store.list(ALL).items if d["metadata"]["name"] == "go"]
        work(home, document, "a1-r0", file="x")
        manifest.write_text(text.replace("NAME", "keep"))
        prune = ("apply", "-f", str(manifest), "--prune", "-l", "app=x")
        assert "go with job" not in run(*prune, "--dry-run=server").err
        done = run(*prune)
        assert "gpujob.cumulus.dev/go pruned" in done.out
        assert f"The files in {place(home, document)} go with job go, once" in done.err


class TestModes:
    """A state directory that everybody may write to is one whose store anybody may replace."""

    @pytest.mark.parametrize("words", [("get", "jobs"), ("delete", "jobs", "--all"), ("serve",)])
    def test_it_is_refused(self, run: Run, home: Path, words: tuple[str, ...]) -> None:
        SqliteStore(home / "store").close()
        home.chmod(0o777)
        done = run(*words)
        home.chmod(0o700)
        assert done.code == 1
        told = (
            f"{home} can be written by everybody (mode 0777): anybody could replace the store; run: chmod go-w {home}"
        )
        assert told in done.err

    def test_a_group_may(self, run: Run, home: Path) -> None:
        SqliteStore(home / "store").close()
        home.chmod(0o770)
        assert run("get", "jobs").code == 0
