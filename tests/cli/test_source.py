"""`cumulus source`, `lint`, `schema` and `diff --source`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cumulus.resources.key import Key
from cumulus.resources.kinds.source import approval
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.gitops.cluster import job

KEY = Key("Source", "default", "cluster")
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def source(run: Run, home: Path) -> Run:
    assert run("source", "add", "cluster", "--url", "https://git.example.org/r.git", "--branch", "main").code == 0
    return run


def spec(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("get", "source", "cluster", "-o", "json").out)["spec"]
    return found


def with_status(home: Path, **status: Any) -> None:
    store = SqliteStore(home / "store")
    try:
        store.update_status({**store.get(KEY), "status": status})
    finally:
        store.close()


def entry(revision: str, result: str = "Synced", **more: Any) -> dict[str, Any]:
    return {
        "revision": revision, "author": "Ada <ada@example.org>", "subject": f"Change {revision[0]}",
        "time": "2030-01-01T00:00:00Z", "result": result, "why": "a new revision", **more,
    }  # fmt: skip


def test_add_says_where_and_prunes_nothing(source: Run) -> None:
    found = spec(source)
    assert found["git"]["url"] == "https://git.example.org/r.git"
    assert (found["prune"], found["drift"], found["onChange"]) == ("Never", "Correct", "Recreate")
    assert source("source", "list").out.splitlines()[0].split() == [
        "NAME", "URL", "REVISION", "SYNCED", "HEALTHY", "OBJECTS", "AGE",
    ]  # fmt: skip
    assert "already" in source("source", "add", "cluster", "--url", "https://git.example.org/r.git").err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "say where the manifests are"),
        (["--url", "https://x.org/r", "--directory", "/x"], "--url and --directory do not go together"),
        (["--directory", "/x", "--branch", "main"], "--branch is of git"),
        (["--url", "ext::sh -c id"], "git is not asked that way"),
        (["--url", "https://x.org/r", "--prune", "always"], "must be Never, Confirm or Auto"),
        (["--url", "https://x.org/r", "--branch", "a", "--tag", "b"], "cannot be given beside branch"),
    ],
)
def test_what_is_wrong_with_a_source_is_told(run: Run, home: Path, given: list[str], told: str) -> None:
    done = run("source", "add", "x", *given)
    assert done.code != 0
    assert told in done.err


def test_a_pending_sync_is_shown_and_approved_by_its_hash_alone(source: Run, home: Path) -> None:
    assert source("source", "diff", "cluster").code == 0
    assert "nothing waits" in source("source", "approve", "cluster", "abc").err
    assert "see `cumulus source approve --help`" in source("source", "approve", "cluster").err
    pending = {"hash": "0123456789abcdef", "revision": FIRST, "reasons": ["too\x1b[2Jmuch"], "deletes": 2,
               "objects": ["delete job default/a"]}  # fmt: skip
    with_status(home, pendingSync=pending)
    shown = source("source", "diff", "cluster")
    assert shown.code == 1
    assert "\x1b" not in shown.out
    assert shown.out.splitlines()[2:] == [
        "delete job default/a", "… and 1 more", "cumulus source approve cluster 0123456789abcdef",
    ]  # fmt: skip
    assert "has the hash 0123456789abcdef" in source("source", "approve", "cluster", "abc").err
    assert source("source", "approve", "cluster", "0123456789abcdef").code == 0
    assert spec(source)["approve"] == "0123456789abcdef"


def test_what_is_told_to_approve_finds_the_source_again() -> None:
    assert approval(KEY, "abc") == "cumulus source approve cluster abc"
    assert approval(Key("Source", "team", "cluster"), "abc") == "cumulus source approve cluster abc -n team"


def test_history_rollback_and_pins(source: Run, home: Path) -> None:
    assert source("source", "history", "cluster").err == "No syncs yet.\n"
    assert "no earlier commit" in source("source", "rollback", "cluster").err
    history = [entry(FIRST, created=3), entry(SECOND, deleted=1), entry("3" * 40, "Failed")]
    with_status(home, history=history, synced={"revision": SECOND})
    lines = source("source", "history", "cluster").out.splitlines()
    assert lines[1].split()[:4] == ["2030-01-01T00:00:00Z", FIRST[:12], "Synced", "+3"]
    assert source("source", "rollback", "cluster").out == f"source/cluster pinned to {FIRST}\n"
    assert spec(source)["pin"] == FIRST
    assert source("source", "pin", "cluster", SECOND[:8]).code == 0
    assert spec(source)["pin"] == SECOND
    assert "names no commit" in source("source", "pin", "cluster", "22").err
    assert source("source", "unpin", "cluster").code == 0
    assert "pin" not in spec(source)


def test_suspend_resume_and_sync(source: Run) -> None:
    assert source("source", "suspend", "cluster").code == 0
    assert spec(source)["suspend"] is True
    assert "Suspended" in source("source", "list").out
    assert source("source", "resume", "cluster").code == 0
    assert spec(source)["suspend"] is False
    assert source("source", "sync", "cluster").code == 0
    assert "not found" in source("source", "sync", "nobody").err


def test_diff_as_a_source_tells_deletions_and_what_it_would_ask(source: Run, home: Path, tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    (manifests / "team").mkdir(parents=True)
    (manifests / "team" / "a.yaml").write_text(job("a"))
    done = source("diff", "-f", str(manifests), "--source", "cluster")
    assert done.code == 1, done.err
    assert "+  name: a" in done.out
    assert source("apply", "-f", str(manifests), "-R", "--field-manager", "source/default/cluster").code == 0
    uid = json.loads(source("get", "job", "a", "-o", "json").out)["metadata"]["uid"]
    with_status(home, inventory=[{"kind": "GPUJob", "namespace": "default", "name": "a", "uid": uid, "hash": "x"}])
    source("annotate", "source", "cluster", "x=y")
    (manifests / "team" / "a.yaml").write_text(job("b"))
    patched = json.dumps({"spec": {"prune": "Confirm"}})
    assert patched
    store = SqliteStore(home / "store")
    document = store.get(KEY)
    store.update({**document, "spec": {**document["spec"], "prune": "Confirm"}})
    store.close()
    done = source("diff", "-f", str(manifests), "--source", "cluster")
    assert "-  name: a" in done.out
    assert "+  name: b" in done.out
    assert "It would ask first: 1 object would be deleted, and prune is Confirm" in done.err
    assert "not found" in source("diff", "-f", str(manifests), "--source", "nobody").err


def test_diff_as_a_source_that_has_variables_or_renders(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "manifests"
    place.mkdir()
    (place / "a.yaml").write_text(job("a", priority="${{ PRIORITY }}"))
    (place / "east.env").write_text("PRIORITY=5\n")
    for name, given in (("east", ["--variables", "east.env"]), ("chart", ["--render", "helm"])):
        assert run("source", "add", name, "--url", "https://git.example.org/r.git", *given).code == 0
    done = run("diff", "-f", str(place), "--source", "east")
    assert done.code == 1, done.err
    assert "+  priority: 5" in done.out
    (place / "east.env").write_text("OTHER=5\n")
    done = run("diff", "-f", str(place), "--source", "east")
    assert f"{place}/a.yaml:10:13: there is no variable 'PRIORITY'" in done.err + done.out
    done = run("diff", "-f", str(place / "a.yaml"), "--source", "east")
    assert (done.code, "give its directory alone" in done.err) == (2, True)
    done = run("diff", "-f", str(place), "--source", "chart")
    assert done.code == 2
    assert f"helm template chart {place} | cumulus diff -f - --source chart" in done.err


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    place = tmp_path / "manifests"
    (place / "team").mkdir(parents=True)
    (place / "team" / "a.yaml").write_text(job("a"))
    (place / "b.yaml").write_text(job("b", prioritty=1))
    return place


def test_lint_needs_no_cluster(run: Run, home: Path, manifests: Path) -> None:
    done = run("lint", str(manifests))
    assert done.code == 1
    assert done.out == f"{manifests}/b.yaml:10:3: spec.prioritty: unknown field; did you mean priority?\n"
    assert run("lint", str(manifests / "team")).out == "1 object in 1 file: all is well\n"
    assert not home.exists()
    github = run("lint", "-o", "github", str(manifests)).out
    assert (
        github
        == f"::error file={manifests}/b.yaml,line=10,col=3::spec.prioritty: unknown field; did you mean priority?\n"
    )
    sarif = json.loads(run("lint", "-o", "sarif", str(manifests)).out)
    (result,) = sarif["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 10, "startColumn": 3}
    (found,) = json.loads(run("lint", "-o", "json", str(manifests)).out)
    assert found["field"] == "spec.prioritty"
    assert "write text, github, sarif or json" in run("lint", "-o", "xml", str(manifests)).err
    assert run("lint").code == 2


def test_lint_that_reads_nothing_is_not_well(run: Run, manifests: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "east.env").write_text("A=b\n")
    for more in ([], ["-o", "sarif"], ["--variables", str(tmp_path / "east.env")]):
        done = run("lint", *more, str(tmp_path / "empty"))
        assert (done.code, done.out) == (2, "")
        assert f"there is no manifest in {tmp_path}/empty; the names of manifests end with .yaml" in done.err


def test_lint_finds_secrets_and_does_not_repeat_them(run: Run, manifests: Path) -> None:
    token = "ghp_" + "a" * 36
    (manifests / "b.yaml").write_text(job("b", env=f'[{{name: T, value: "{token}"}}]'))
    done = run("lint", str(manifests))
    assert "b.yaml:10:27: looks like a GitHub token; make it a secret" in done.out
    assert token not in done.out + done.err


def test_schemas_say_what_manifests_may(run: Run, tmp_path: Path) -> None:
    import jsonschema
    import yaml

    assert run("schema", str(tmp_path / "schemas")).code == 0
    names = {file.name for file in (tmp_path / "schemas").iterdir()}
    assert {"cumulus.json", "catalog.json", "gpujob.json", "source.json"} <= names
    schema = json.loads((tmp_path / "schemas" / "gpujob.json").read_text())
    jsonschema.validate(yaml.safe_load(job("a")), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(job("a", prioritty=1)), schema)
    assert set(json.loads(run("schema").out)) == names


def test_a_suspended_source_is_not_asked(source: Run) -> None:
    assert source("source", "suspend", "cluster").code == 0
    done = source("source", "sync", "cluster")
    assert done.code != 0
    assert "source/cluster is suspended; resume it: cumulus source resume cluster" in done.err
