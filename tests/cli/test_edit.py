from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from cumulus.cli.set_fields import patch_of
from cumulus.clock import SystemClock
from cumulus.errors import Conflict
from cumulus.resources.kinds import gpujob
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.store.base import Document, Key
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import failed, job, node, running

TESTER = Identity("tester", 0)
TRAIN = Key("GPUJob", "default", "train")


@pytest.mark.parametrize("words", [["train"], ["job", "train"], ["gpujob/train"]])
def test_suspend_and_resume(store: SqliteStore, run: Run, words: list[str]) -> None:
    store.create(running("train"))
    done = run("suspend", *words)
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train suspended\n")
    assert "No daemon runs" in done.err
    found = store.get(TRAIN)
    assert found["spec"]["suspend"] is True
    assert found["status"]["phase"] == "Running"
    assert run("suspend", *words).out == "gpujob.cumulus.dev/train already suspended\n"
    assert run("resume", *words).out == "gpujob.cumulus.dev/train resumed\n"
    assert store.get(TRAIN)["spec"]["suspend"] is False


def test_park_and_unpark(store: SqliteStore, run: Run) -> None:
    store.create(running("train"))
    assert run("park", "train", "--for", "8h").out == "gpujob.cumulus.dev/train is to be parked\n"
    found = store.get(TRAIN)
    assert (found["spec"]["park"], found["spec"]["parkFor"]) == (True, "8h")
    assert run("park", "job/train").out == "gpujob.cumulus.dev/train is to be parked already\n"
    assert run("unpark", "train").out == "gpujob.cumulus.dev/train comes back\n"
    found = store.get(TRAIN)
    assert found["spec"]["park"] is False
    assert found["metadata"]["annotations"]["cumulus.dev/unpark-requested"]
    assert run("unpark", "train").out == "gpujob.cumulus.dev/train is not parked\n"


def test_what_waits_unasked_in_main_memory_comes_back_when_somebody_asks(store: SqliteStore, run: Run) -> None:
    parked = running("train")
    store.create({**parked, "status": {**parked["status"], "phase": "Parked"}})
    assert run("unpark", "train").out == "gpujob.cumulus.dev/train comes back\n"
    first = store.get(TRAIN)["metadata"]["annotations"]["cumulus.dev/unpark-requested"]
    assert run("unpark", "train").out == "gpujob.cumulus.dev/train comes back\n"
    assert store.get(TRAIN)["metadata"]["annotations"]["cumulus.dev/unpark-requested"] > first


def test_who_attaches_to_a_parked_job_has_it_come_back(store: SqliteStore, run: Run) -> None:
    parked = running("train")
    store.create({**parked, "status": {**parked["status"], "phase": "Parked"}})
    assert "gpujob/train is parked; it comes back to its GPU." in run("attach", "train").err
    assert store.get(TRAIN)["metadata"]["annotations"]["cumulus.dev/unpark-requested"]


def test_what_cannot_be_parked(store: SqliteStore, run: Run) -> None:
    store.create(job("waits"))
    done = run("park", "waits")
    assert (done.code, done.err) == (
        1,
        "error: gpujob/waits does not run, so that there is nothing to park; hold it with: cumulus suspend waits\n",
    )
    store.create(failed("over"))
    assert run("park", "over").err == "error: gpujob/over is over (Failed) and cannot be parked\n"
    gang = running("gang")
    store.create({**gang, "spec": {**gang["spec"], "replicas": 2}})
    assert "a job with several can't be parked" in run("park", "gang").err
    assert run("park", "cronjob/nightly").code == 2
    assert run("park", "waits", "--for", "8 parsecs").code == 2
    assert run("park").code == 2


def test_suspend_with_park_and_resume(store: SqliteStore, run: Run) -> None:
    store.create(running("train"))
    assert run("suspend", "--park", "train").out == "gpujob.cumulus.dev/train suspended\n"
    spec = store.get(TRAIN)["spec"]
    assert (spec["suspend"], spec["park"]) == (True, True)
    assert run("resume", "train").code == 0
    spec = store.get(TRAIN)["spec"]
    assert (spec["suspend"], spec["park"]) == (False, False)
    assert run("suspend", "--park", "cronjob/nightly").code != 0


def test_what_is_over_can_not_be_suspended(store: SqliteStore, run: Run) -> None:
    store.create(failed("train"))
    done = run("suspend", "train")
    assert done.code == 1
    assert done.err == "error: gpujob/train is over (Failed) and cannot be suspended\n"
    assert run("suspend", "nope").code == 1
    assert run("suspend", "node/n").code == 2
    assert run("suspend", "a", "node/n").code == 2
    assert run("suspend").code == 2


def test_cordon_and_uncordon(store: SqliteStore, run: Run) -> None:
    store.create(node("gpu-1"))
    assert run("cordon", "gpu-1").out == "gpunode.cumulus.dev/gpu-1 cordoned\n"
    assert "SchedulingDisabled" in run("get", "nodes").out
    assert run("uncordon", "node", "gpu-1").out == "gpunode.cumulus.dev/gpu-1 uncordoned\n"
    assert "SchedulingDisabled" not in run("get", "nodes").out


def test_labels(store: SqliteStore, run: Run) -> None:
    store.create(job("train", labels={"a": "1"}))
    assert run("label", "job", "train", "b=2", "c=").code == 0
    assert store.get(TRAIN)["metadata"]["labels"] == {"a": "1", "b": "2", "c": ""}
    refused = run("label", "job/train", "a=2")
    assert refused.code == 1
    assert "has a=1 already; give --overwrite" in refused.err
    assert run("label", "job/train", "a=2", "b-", "--overwrite").code == 0
    assert store.get(TRAIN)["metadata"]["labels"] == {"a": "2", "c": ""}
    assert run("label", "job/train", "a=2").out == "gpujob.cumulus.dev/train unchanged\n"


def test_annotations(store: SqliteStore, run: Run) -> None:
    store.create(job("train"))
    assert run("annotate", "job", "train", "note=two words = fine").out == "gpujob.cumulus.dev/train annotated\n"
    assert store.get(TRAIN)["metadata"]["annotations"] == {"note": "two words = fine"}
    assert run("annotate", "job", "train", "note-").code == 0
    assert not store.get(TRAIN)["metadata"].get("annotations")


@pytest.mark.parametrize("arguments", [["job", "train"], ["job", "train", "-bad-=x"], ["a=b"], ["jobs", "a=b"]])
def test_wrong_pairs(store: SqliteStore, run: Run, arguments: list[str]) -> None:
    store.create(job("train"))
    assert run("label", *arguments).code == 2


def test_a_change_is_made_again_when_another_was_faster(store: SqliteStore) -> None:
    store.create(job("train"))
    objects = Objects(store, SystemClock(), Access(lambda: store, 0))
    threads = [
        threading.Thread(target=objects.edit, args=(TESTER, TRAIN, lambda d, n=n: _labelled(d, str(n))))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(store.get(TRAIN)["metadata"]["labels"]) == {"l0", "l1", "l2", "l3"}


def _labelled(document: Document, number: str) -> Document:
    labels = {**(document["metadata"].get("labels") or {}), f"l{number}": ""}
    return {**document, "metadata": {**document["metadata"], "labels": labels}}


def test_an_object_that_never_holds_still_is_given_up(store: SqliteStore) -> None:
    store.create(job("train"))

    def change(document: Document) -> Document:
        store.update(_labelled(document, document["metadata"]["resourceVersion"]))
        return {**document, "spec": {**document["spec"], "suspend": True}}

    with pytest.raises(Conflict, match="keeps changing"):
        Objects(store, SystemClock(), Access(lambda: store, 0)).edit(TESTER, TRAIN, change)


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        (["spec.args=--lr 0.1 'a b'"], {"args": ["--lr", "0.1", "a b"]}),
        (['spec.args=["x"]', "spec.replicas=2"], {"args": ["x"], "replicas": 2}),
        (["spec.gpu.duration=2h", "spec.gpu.compute=25%"], {"gpu": {"duration": "2h", "compute": "25%"}}),
        (["spec.gpu.selector.nodeLabels.rack=7", "spec.image="], {"gpu": {"selector": {"nodeLabels": {"rack": "7"}}},
                                                                   "image": None}),
        (["spec.hostNetwork=true"], {"hostNetwork": True}),
    ],
)  # fmt: skip
def test_fields_that_are_set(settings: list[str], spec: Document) -> None:
    assert patch_of(gpujob.KIND, settings) == {"spec": spec}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("spec.arsg=1", "a GPUJob has no field spec.arsg; did you mean spec.args?"),
        ("spec.args", "'spec.args' is not PATH=VALUE"),
        ("spec.replicas=two", "spec.replicas takes integer, not 'two'"),
        ("spec.env=a", "spec.env is a list of objects"),
        ("metadata.name=x", "metadata stays as it is"),
    ],
)
def test_wrong_settings(store: SqliteStore, run: Run, setting: str, message: str) -> None:
    store.create(failed("train"))
    done = run("rerun", "train", "--set", setting)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize("words", ["train -- true", "train -- sh -c true", "job/train -- true", "job train true"])
def test_what_a_job_runs_is_no_word_of_rerun(store: SqliteStore, run: Run, words: str) -> None:
    store.create(failed("train"))
    done = run("rerun", *words.split())
    assert done.code == 2
    assert done.err.startswith("error: only a job's name is taken; what it runs is changed by --set spec.args=")


def test_several_at_once(store: SqliteStore, run: Run) -> None:
    for name, team in (("a", "x"), ("b", "x"), ("c", "y")):
        store.create(running(name, labels={"team": team}))
    done = run("suspend", "a", "nope", "c")
    assert done.code == 1
    assert done.out == "gpujob.cumulus.dev/a suspended\ngpujob.cumulus.dev/c suspended\n"
    assert "'nope' not found" in done.err
    assert run("suspend", "-l", "team=x").out == (
        "gpujob.cumulus.dev/a already suspended\ngpujob.cumulus.dev/b suspended\n"
    )
    assert run("resume", "--all").out.count("resumed") == 3
    assert run("suspend", "a", "-l", "team=x").code == 2
    assert "No resources found." in run("suspend", "-l", "team=z").err
    assert run("label", "jobs", "-l", "team=x", "keep=yes").out.count("labeled") == 2
    assert run("label", "job", "a", "c", "keep=no").code == 1
    assert run("annotate", "jobs", "--all", "note=1").out.count("annotated") == 3
    store.create(node("gpu-1"))
    store.create(node("gpu-2"))
    assert run("cordon", "gpu-1", "gpu-2").out.count("cordoned") == 2
    assert run("uncordon", "--all").out.count("uncordoned") == 2


PATCHED = "gpujob.cumulus.dev/train patched"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "spec: {priority: 5}"], f"{PATCHED}\n"),
        (["-p", '{"spec": {"priority": 0}}'], f"{PATCHED} (no change)\n"),
        (["--type", "json", "-p", '[{"op": "add", "path": "/spec/priority", "value": 2}]'], f"{PATCHED}\n"),
        (["-p", "spec: {priority: 5}", "--dry-run=server"], f"{PATCHED} (server dry run)\n"),
    ],
)
def test_a_patch(home: Path, run: Run, tmp_path: Path, arguments: list[str], said: str) -> None:
    run("create", "-f", written(tmp_path))
    assert run("patch", "train", *arguments).out == said


@pytest.mark.parametrize("arguments", [[], ["-p", "{"], ["-p", "{}", "--type", "strategic"], ["-p", "spec: {nope: 1}"]])
def test_a_wrong_patch(store: SqliteStore, run: Run, arguments: list[str]) -> None:
    store.create(job("train"))
    assert run("patch", "train", *arguments).code in (1, 2)


MANIFEST = """\
apiVersion: cumulus.dev/v1alpha1
kind: GPUJob
metadata: {NAME}
spec: {command: [WORD], gpu: {memory: 1Gi, duration: 1h}}
"""


def written(tmp_path: Path, name: str = "name: train", word: str = "a") -> str:
    file = tmp_path / "job.yaml"
    file.write_text(MANIFEST.replace("NAME", name).replace("WORD", word))
    return str(file)


def test_create_and_replace(home: Path, run: Run, tmp_path: Path) -> None:
    assert run("create", "-f", written(tmp_path)).out == "gpujob.cumulus.dev/train created\n"
    again = run("create", "-f", written(tmp_path))
    assert (again.code, again.out) == (1, "")
    assert "is there already" in again.err
    names = {run("create", "-f", written(tmp_path, "generateName: sweep-"), "-o", "name").out for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(r"gpujob\.cumulus\.dev/sweep-[a-z0-9]{5}\n", name) for name in names)
    run("label", "job", "train", "a=b")
    assert run("replace", "-f", written(tmp_path)).out == "gpujob.cumulus.dev/train replaced\n"
    assert not json.loads(run("get", "job", "train", "-o", "json").out)["metadata"].get("labels")
    assert run("replace", "-f", written(tmp_path, "name: nope")).code == 1


@pytest.mark.parametrize("verb", ["apply", "replace"])
def test_force_makes_it_anew(home: Path, run: Run, tmp_path: Path, verb: str) -> None:
    run("apply", "-f", written(tmp_path))
    before = json.loads(run("get", "job", "train", "-o", "json").out)
    refused = run(verb, "-f", written(tmp_path, word="b"))
    assert refused.code == 1
    assert "is immutable" in refused.err
    done = run(verb, "-f", written(tmp_path, word="b"), "--force")
    assert (done.code, done.out) == (0, "gpujob.cumulus.dev/train recreated\n")
    after = json.loads(run("get", "job", "train", "-o", "json").out)
    assert after["spec"]["command"] == ["b"]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["status"]["earlierRuns"][0]["uid"] == before["metadata"]["uid"]
    word = "unchanged" if verb == "apply" else "replaced"
    assert run(verb, "-f", written(tmp_path, word="b"), "--force").out == f"gpujob.cumulus.dev/train {word}\n"


def edits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *programs: str) -> None:
    """Each time the editor runs, the next sed program is done; the last one again and again."""
    script = tmp_path / "editor.sh"
    (tmp_path / "programs").write_text("".join(f"{program}\n" for program in programs))
    script.write_text(
        f'#!/bin/sh\ncd {tmp_path}\nprogram=$(head -n 1 programs)\nsed -i "$program" "$1"\n'
        "[ $(wc -l < programs) = 1 ] || sed -i 1d programs\n"
    )
    script.chmod(0o755)
    for name in ("CUMULUS_EDITOR", "KUBE_EDITOR", "VISUAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDITOR", str(script))


def test_edit(home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("create", "-f", written(tmp_path))
    edits(monkeypatch, tmp_path, "s/priority: 0/priority: 7/")
    assert run("edit", "train").out == "gpujob.cumulus.dev/train edited\n"
    assert json.loads(run("get", "job", "train", "-o", "json").out)["spec"]["priority"] == 7
    edits(monkeypatch, tmp_path, "s/x/x/")
    assert "Edit cancelled" in run("edit", "train").err
    # What is wrong is told in the file, which opens again.
    edits(monkeypatch, tmp_path, "s/priority: 7/priority: many/", "s/priority: many/priority: 8/")
    assert run("edit", "train").out == "gpujob.cumulus.dev/train edited\n"
    edits(monkeypatch, tmp_path, "s/- a$/- b/", "s/x/x/")
    refused = run("edit", "train")
    assert (refused.code, refused.out) == (1, "")
    assert "is immutable" in refused.err
    edits(monkeypatch, tmp_path, "s/- a$/- b/")
    assert run("edit", "train", "--force").out == "gpujob.cumulus.dev/train recreated\n"
    monkeypatch.setenv("EDITOR", "/nowhere/editor")
    assert "cannot be started" in run("edit", "train").err
