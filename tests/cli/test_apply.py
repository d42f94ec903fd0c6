from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from cumulus.store.base import Key, Query
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run

TRAIN = """\
apiVersion: cumulus.dev/v1alpha1
kind: GPUJob
metadata:
  name: train
  labels: {team: vision}
spec:
  command: [sh, -c, 'true']
  gpu: {memory: 50%, duration: 10m}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "train.yaml"
    path.write_text(TRAIN)
    return str(path)


def test_created_configured_unchanged(file: str, run: Run, home: Path) -> None:
    done = run("apply", "-f", file)
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train created\n")
    assert done.err == f"No daemon runs on {home}; this takes effect once `cumulus serve` is started.\n"
    again = run("apply", "-f", file)
    assert again == (0, "gpujob.cumulus.dev/train unchanged\n", "")
    Path(file).write_text(TRAIN.replace("vision", "audio"))
    assert run("apply", "-f", file).out == "gpujob.cumulus.dev/train configured\n"


def test_a_dry_run_writes_nothing_not_even_a_directory(file: str, run: Run, home: Path) -> None:
    done = run("apply", "-f", file, "--dry-run=server")
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train created (server dry run)\n")
    assert not home.exists()


def test_every_problem_has_its_line_and_nothing_is_applied(run: Run, tmp_path: Path, store: SqliteStore) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(TRAIN + "---\n" + TRAIN.replace("train", "x").replace("10m", "soon").replace("command", "comand"))
    done = run("apply", "-f", str(path))
    assert (done.code, done.out) == (1, "")
    *problems, last = done.err.splitlines()
    assert len(problems) >= 2
    assert all(line.startswith(f"{path}:") for line in problems)
    assert "did you mean command?" in done.err
    assert last == f"error: {len(problems)} problems; nothing was changed"
    assert store.list(Query(kind="GPUJob")).items == []


def test_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TRAIN.encode())))
    assert run("apply", "-f", "-").out == "gpujob.cumulus.dev/train created\n"


def test_directories(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m" / "deep").mkdir(parents=True)
    (tmp_path / "m" / "a.yaml").write_text(TRAIN)
    (tmp_path / "m" / "deep" / "b.yaml").write_text(TRAIN.replace("train", "deep"))
    assert run("apply", "-f", str(tmp_path / "m")).out == "gpujob.cumulus.dev/train created\n"
    assert "gpujob.cumulus.dev/deep created" in run("apply", "-f", str(tmp_path / "m"), "-R").out


def test_pruning(file: str, run: Run, store: SqliteStore, tmp_path: Path) -> None:
    run("apply", "-f", file)
    other = tmp_path / "other.yaml"
    other.write_text(TRAIN.replace("train", "other"))
    done = run("apply", "-f", str(other), "--prune", "-l", "team=vision")
    assert done.out == "gpujob.cumulus.dev/other created\ngpujob.cumulus.dev/train pruned\n"
    assert [d["metadata"]["name"] for d in store.list(Query(kind="GPUJob")).items] == ["other"]


def test_output_forms(file: str, run: Run) -> None:
    assert run("apply", "-f", file, "-o", "name").out == "gpujob.cumulus.dev/train\n"
    assert json.loads(run("apply", "-f", file, "-o", "json").out)["metadata"]["name"] == "train"
    assert "name: train" in run("apply", "-f", file, "-o", "yaml").out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "say what to read"),
        (["--dry-run=client"], "there is no dry run 'client'"),
        (["-o", "wide"], "there is no output format 'wide' here"),
        (["--prune"], "pruning needs a label selector"),
        (["--prune", "-l", "a in"], "a in"),
        (["--prune", "-l", "a=b", "--prune-limit", "x"], "--prune-limit takes a number"),
        (["-l", "a=b"], "give --prune too"),
    ],
)
def test_wrong_usage(file: str, run: Run, arguments: list[str], problem: str) -> None:
    done = run("apply", *(["-f", file] if arguments else []), *arguments)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err


def test_diff(file: str, run: Run, store: SqliteStore) -> None:
    assert run("diff", "-f", file).code == 1
    run("apply", "-f", file)
    assert run("diff", "-f", file) == (0, "", "")
    Path(file).write_text(TRAIN.replace("vision", "audio"))
    done = run("diff", "-f", file)
    assert done.code == 1
    assert "-    team: vision\n+    team: audio\n" in done.out
    assert store.get(Key("GPUJob", "default", "train"))["metadata"]["labels"] == {"team": "vision"}
    Path(file).write_text("nonsense: true")
    bad = run("diff", "-f", file)
    assert bad.code == 2
    assert bad.err.startswith(f"{file}:1:1: ")


def test_a_conflict_has_its_line_and_can_be_forced(file: str, run: Run, store: SqliteStore) -> None:
    Path(file).write_text(TRAIN + "  priority: 3\n")
    run("apply", "-f", file, "--field-manager=ci")
    Path(file).write_text(TRAIN + "  priority: 4\n")
    refused = run("apply", "-f", file)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f'{file}:9:13: spec.priority: has another value, which "ci" set at 2')
    assert "take it out of the manifest, or take it over with --force-conflicts" in refused.err
    assert run("diff", "-f", file).code == 2
    assert "-  priority: 3\n+  priority: 4\n" in run("diff", "-f", file, "--force-conflicts").out
    assert store.get(Key("GPUJob", "default", "train"))["spec"]["priority"] == 3
    assert run("apply", "-f", file, "--force-conflicts").out == "gpujob.cumulus.dev/train configured\n"
    assert run("apply", "-f", file).out == "gpujob.cumulus.dev/train unchanged\n"


def test_what_other_verbs_changed_gives_way(file: str, run: Run, store: SqliteStore) -> None:
    run("apply", "-f", file)
    run("label", "job", "train", "team=audio", "--overwrite")
    run("suspend", "train")
    assert run("apply", "-f", file).out == "gpujob.cumulus.dev/train configured\n"
    document = store.get(Key("GPUJob", "default", "train"))
    assert document["metadata"]["labels"] == {"team": "vision"}
    assert document["spec"]["suspend"] is True, "the manifest does not say"


def test_who_owns_what_is_shown_when_it_is_asked_for(file: str, run: Run) -> None:
    for form in ("yaml", "json"):
        assert "managedFields" not in run("apply", "-f", file, "-o", form).out
        assert "managedFields" not in run("get", "jobs", "-o", form).out
        assert "manager" in run("get", "jobs", "-o", form, "--show-managed-fields").out
    managers = run("get", "job", "train", "-o", "jsonpath={.metadata.managedFields[*].manager}")
    assert managers.out == "cumulus"


def test_what_get_prints_is_applied_as_unchanged(file: str, run: Run, store: SqliteStore, tmp_path: Path) -> None:
    run("apply", "-f", file)
    revision = store.revision()
    printed = tmp_path / "printed.yaml"
    printed.write_text(run("get", "job", "train", "-o", "yaml").out)
    assert run("apply", "-f", str(printed)).out == "gpujob.cumulus.dev/train unchanged\n"
    assert store.revision() == revision


def test_a_field_manager_has_a_name(file: str, run: Run) -> None:
    done = run("apply", "-f", file, "--field-manager=")
    assert done.code != 0
    assert "fieldManager must have 1 to 128 printable characters" in done.err
