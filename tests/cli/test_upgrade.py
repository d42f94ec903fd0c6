"""A store that an older version filled with objects that are refused today. Its rows are in store/objects-1.sql: each
phase, with what each newer rule forbids."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

from cumulus import paths
from cumulus.health import control_plane
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Key
from cumulus.resources.partition import GPUPartition
from cumulus.resources.registry import KINDS
from cumulus.store.base import Document, Query, key_of
from cumulus.store.client import decode
from cumulus.store.schema import FILE
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run

ROWS = Path(__file__).parent.parent / "store" / "objects-1.sql"
JOBS = ["checkpointing", "failed", "large", "pending", "running", "scheduled", "succeeded", "suspended"]
PARTITIONS = [f"mine-{phase}" for phase in ("active", "bound", "expired", "failed", "pending", "released")]
BROKEN = {"nonsense": 1}


@pytest.fixture
def old(home: Path) -> Path:
    """The state directory, with the store in it."""
    directory = home / "store"
    directory.mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    with closing(sqlite3.connect(directory / FILE)) as connection:
        connection.executescript(ROWS.read_text())
    return directory


def stored(directory: Path, *kinds: str) -> list[Document]:
    with closing(SqliteStore(directory)) as store:
        return [document for kind in kinds for document in store.list(Query(kind)).items]


def test_what_was_stored_is_read_and_refused_to_a_writer(old: Path) -> None:
    documents = stored(old, *(kind.name for kind in KINDS))
    assert len(documents) == len(JOBS) + len(PARTITIONS) + 1
    for document in documents:
        model = {kind.name: kind.model() for kind in KINDS}[document["kind"]]
        read = decode(model, document)
        assert read.key == key_of(document)
        assert read.to_json()["spec"].get("mounts") == document["spec"].get("mounts")
        if document["kind"] in ("GPUJob", "GPUPartition") and document["metadata"]["name"] != "large":
            with pytest.raises(ValidationError):
                model.model_validate(document)


def test_every_rule_of_a_writer_is_told_of_an_old_object(old: Path, run: Run, tmp_path: Path) -> None:
    documents = stored(old, GPUJob.KIND, GPUPartition.KIND)
    for name, said in (
        ("running", ["mounts[0].target", "mounts[1].source", "mounts[1].readOnly", "mounts[2].target",
                     "mounts[3].target", "checkpoint.path", "checkpoint.uri", "workingDir", "env[0].value",
                     "env[1].valueFrom.secretKeyRef.name", "env[1].valueFrom.secretKeyRef.key", "selector.name"]),
        ("mine-active", ["spec.user", "spec.selector.vendor"]),
    ):  # fmt: skip
        (document,) = (d for d in documents if d["metadata"]["name"] == name)
        file = tmp_path / "same.json"
        file.write_text(json.dumps(document))
        done = run("apply", "-f", str(file))
        assert done.code == 1
        assert [word for word in said if word not in done.err] == []


def test_all_of_an_old_store_is_shown(old: Path, run: Run) -> None:
    shown = run("get", "jobs,parts", "-o", "name")
    assert [line.split("/")[1] for line in shown.out.splitlines()] == [*JOBS, *PARTITIONS]
    table = run("get", "jobs,parts")
    assert (table.code, table.err.count("warning:"), "?" in table.out) == (0, 0, False)
    described = run("describe", "jobs,parts,nodes")
    assert (described.code, "warning:" in described.err) == (0, False)
    for name in JOBS:
        assert run("why", name).code == 0
    [finding] = control_plane.store(paths.home())
    assert (finding.level, finding.text.endswith("all objects are readable")) == ("OK", True)


def test_old_objects_are_changed_and_deleted(old: Path, run: Run) -> None:
    for name in ("pending", "running", "large"):
        assert run("suspend", name).code == 0
        assert run("label", "job", name, "team=vision").code == 0
    assert run("delete", "jobs,parts", "--all", "--no-wait").code == 0
    left = stored(old, GPUJob.KIND, GPUPartition.KIND)
    assert left
    assert all("deletionTimestamp" in document["metadata"] for document in left)


def test_an_object_that_cannot_be_read_hides_no_other(old: Path, run: Run) -> None:
    with closing(SqliteStore(old)) as store:
        for kind, name in ((GPUPartition.KIND, "mine-active"), (GPUJob.KIND, "failed")):
            store.update({**store.get(Key(kind, "default", name)), "spec": BROKEN})
        document = store.get(Key(GPUJob.KIND, "default", "succeeded"))
        store.update_status({**document, "status": {"attempts": 7, "phase": ["x"]}})
    assert len(run("get", "jobs,parts", "-o", "name").out.splitlines()) == len(JOBS) + len(PARTITIONS)
    table = run("get", "jobs")
    assert all(name in table.out for name in JOBS)
    assert (table.code, table.err.count("warning:")) == (0, 1)
    why = run("why", "pending")
    assert why.code == 0
    assert why.out.startswith("gpujob/pending: ")
    assert why.err.count("warning:") == 1
    assert "gpupartition/default/mine-active as stored is not a valid GPUPartition" in why.err
    assert "`cumulus delete gpupartition mine-active -n default`" in why.err
    described = run("describe", "jobs")
    assert set(JOBS) <= set(re.findall(r"^Name: +(.*)", described.out, re.MULTILINE))
    assert (described.code, described.err.count("warning:")) == (1, 1)
    assert "gpujob/default/succeeded" in described.err
    [finding] = control_plane.store(paths.home())
    assert finding.level == "WARN"
    assert "3 of its objects are not valid, and ignored" in finding.text
    for name in ("job/failed", "partition/mine-active", "job/succeeded"):
        assert run("delete", name, "--no-wait").code == 0


def test_the_note_of_what_was_applied_goes_with_the_next_apply(old: Path, run: Run, tmp_path: Path) -> None:
    """It was a copy, so that this object is larger than may be given."""
    (document,) = (d for d in stored(old, GPUJob.KIND) if d["metadata"]["name"] == "large")
    file = tmp_path / "large.json"
    file.write_text(json.dumps({**document, "metadata": {**document["metadata"], "labels": {"changed": "yes"}}}))
    assert run("apply", "-f", str(file)).out == "gpujob.cumulus.dev/large configured\n"
    assert run("apply", "-f", str(file)).out == "gpujob.cumulus.dev/large unchanged\n"
    (document,) = (d for d in stored(old, GPUJob.KIND) if d["metadata"]["name"] == "large")
    assert document["metadata"]["labels"] == {"changed": "yes"}
    assert "annotations" not in document["metadata"]
    assert [entry["manager"] for entry in document["metadata"]["managedFields"]] == ["cumulus"]
