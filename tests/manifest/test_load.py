"""Where manifests come from: files, directories, standard input; Lists, namespaces, and what `get -o yaml` printed."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.manifest import InvalidManifest, dump, dump_all, load, load_text
from cumulus.manifest.load import MAX_FILE_BYTES
from cumulus.resources.annotations import LAST_APPLIED
from cumulus.store.memory import MemoryStore


def job(name: str, more: str = "") -> str:
    return (
        f"apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\nmetadata:\n  name: {name}\n{more}"
        "spec:\n  command: [python]\n  gpu: {memory: 0.5, duration: 3600}\n"
    )


def names(manifests: list) -> list[str]:
    return [manifest.key.name for manifest in manifests]


def refused(call: object) -> list[str]:
    assert callable(call)
    with pytest.raises(InvalidManifest) as caught:
        call()
    return str(caught.value).splitlines()


def test_a_manifest_holds_what_was_written_in_normal_form() -> None:
    (manifest,) = load_text(job("a"))
    assert manifest.document == {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"command": ["python"], "gpu": {"memory": "0.5", "duration": "3600s"}},
    }
    assert manifest.resource.to_json()["spec"]["replicas"] == 1


def test_files_and_directories_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(job("b1") + "---\n" + job("b2"))
    (tmp_path / "a.yml").write_text(job("a"))
    (tmp_path / "c.json").write_text(json.dumps(load_text(job("c"))[0].document))
    (tmp_path / "notes.txt").write_text("not: [a manifest")
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.yaml").write_text(job("d"))
    assert names(load([tmp_path])) == ["a", "b1", "b2", "c"]
    assert sorted(names(load([tmp_path], recursive=True))) == ["a", "b1", "b2", "c", "d"]
    assert names(load([str(tmp_path / "c.json"), tmp_path / "deep"])) == ["c", "d"]


def test_any_suffix_will_do_for_a_file_named_outright(tmp_path: Path) -> None:
    (tmp_path / "job").write_text(job("a"))
    assert names(load([tmp_path / "job"])) == ["a"]


def test_standard_input() -> None:
    assert names(load(["-"], stdin=io.BytesIO(job("a").encode()))) == ["a"]
    assert refused(lambda: load(["-"], stdin=io.BytesIO(b"a: [")))[0].startswith("-:2:1: ")


def test_a_pipe_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, job("a").encode())
    os.close(writing)
    try:
        assert names(load([f"/dev/fd/{reading}"])) == ["a"]
    finally:
        os.close(reading)


def test_what_cannot_be_read_is_told_with_all_else(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(job("Bad"))
    (tmp_path / "empty").mkdir()
    problems = refused(lambda: load([tmp_path / "none.yaml", tmp_path / "bad.yaml", tmp_path / "empty", "https://x/y"]))
    assert len(problems) == 4
    assert problems[0] == f"{tmp_path}/none.yaml: cannot be read: no such file or directory"
    assert problems[1].startswith(f"{tmp_path}/bad.yaml:4:9: metadata.name: 'Bad' is not a name")
    assert problems[2] == (
        f"{tmp_path}/empty: the directory holds no .yaml, .yml or .json file; recursive reads its subdirectories"
    )
    assert problems[3] == "https://x/y: URLs are not read; download it, or pipe it in with -f -"


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "/proc/self/mem"])
def test_a_path_that_cannot_be_read_says_so(name: str) -> None:
    (problem,) = refused(lambda: load([name]))
    assert ": cannot be read: " in problem


def test_a_directory_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    # Root, as tests may run, is denied nothing.
    monkeypatch.setattr(Path, "iterdir", denied)
    assert refused(lambda: load([tmp_path])) == [f"{tmp_path}: cannot be read: permission denied"]


def test_a_link_to_a_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("a"))
    (tmp_path / "round").symlink_to(tmp_path)
    assert names(load([tmp_path], recursive=True)) == ["a"]


def test_what_is_no_regular_file_in_a_directory_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("a"))
    os.mkfifo(tmp_path / "pipe.yaml")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.json"))
    (tmp_path / "device.yml").symlink_to("/dev/zero")
    (tmp_path / "round.yaml").symlink_to("round.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    assert sorted(refused(lambda: load([tmp_path], recursive=True))) == [
        f"{tmp_path}/device.yml: is not a regular file; name it with -f to read it",
        f"{tmp_path}/gone.yaml: cannot be read: no such file or directory",
        f"{tmp_path}/pipe.yaml: is not a regular file; name it with -f to read it",
        f"{tmp_path}/round.yaml: cannot be read: too many levels of symbolic links",
        f"{tmp_path}/socket.json: is not a regular file; name it with -f to read it",
    ]


def test_endless_and_large_files_are_refused() -> None:
    assert refused(lambda: load(["/dev/zero"])) == ["/dev/zero: is larger than 4 MiB; split it"]
    assert refused(lambda: load_text("#" * (MAX_FILE_BYTES + 1))) == ["manifest: is larger than 4 MiB; split it"]


def test_one_name_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("x"))
    (tmp_path / "b.yaml").write_text(job("x"))
    assert refused(lambda: load([tmp_path])) == [
        f"{tmp_path}/b.yaml:4:9: metadata.name: gpujob/default/x is given already at {tmp_path}/a.yaml:4:9"
    ]


def test_one_name_in_two_namespaces_or_kinds_is_no_double() -> None:
    text = job("x") + "---\n" + job("x", "  namespace: other\n")
    text += "---\napiVersion: cumulus.dev/v1alpha1\nkind: GPUPartition\nmetadata: {name: x}\n"
    text += "spec: {memory: 1Gi, duration: 1h}\n"
    assert len(load_text(text)) == 3


def test_the_namespace_asked_for() -> None:
    assert load_text(job("x"))[0].key.namespace == "default"
    assert load_text(job("x"), namespace="team")[0].key.namespace == "team"
    assert load_text(job("x", "  namespace: team\n"), namespace="team")[0].key.namespace == "team"
    assert refused(lambda: load_text(job("x", "  namespace: other\n"), namespace="team")) == [
        "manifest:5:14: metadata.namespace: is 'other', but the namespace asked for is 'team'; change one of them"
    ]
    node = "apiVersion: cumulus.dev/v1alpha1\nkind: GPUNode\nmetadata: {name: n}\nspec: {unschedulable: true}\n"
    assert load_text(node, namespace="team")[0].key.namespace == ""


def test_fields_left_empty_are_left_out() -> None:
    text = job("x", "  labels:\n  annotations:\n") + "  env:\n  retry:\n  checkpoint: {path: /x, uri: }\n"
    (manifest,) = load_text(text)
    assert manifest.document["spec"]["checkpoint"] == {"path": "/x"}
    assert manifest.document["spec"].keys() == {"command", "gpu", "checkpoint"}
    assert manifest.document["metadata"].keys() == {"name", "namespace"}


def test_what_get_prints_can_be_loaded_again() -> None:
    store = MemoryStore(FakeClock())
    (written,) = load_text(job("x", "  labels: {app: x}\n"))
    document = written.resource.to_json()
    document["metadata"] |= {"annotations": {LAST_APPLIED: "{}"}, "finalizers": ["cumulus.dev/job"]}
    document["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "1"}]
    stored = store.create(document)
    a_list = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [stored]}
    for text in (dump(stored), dump_all([stored]), json.dumps(stored), dump(a_list), json.dumps(a_list)):
        (again,) = load_text(text)
        assert again.document["metadata"] == {
            "name": "x", "namespace": "default", "labels": {"app": "x"},
        }  # fmt: skip
        assert "status" not in again.document
        assert again.resource.to_json()["spec"] == written.resource.to_json()["spec"]


def test_kubectl_s_null_timestamp_is_ignored() -> None:
    assert load_text(job("x", "  creationTimestamp: null\n") + "status: {}\n")[0].document["metadata"] == {
        "name": "x", "namespace": "default",
    }  # fmt: skip


def test_problems_of_all_documents_come_at_once_and_in_order() -> None:
    text = job("A") + "---\n" + job("b") + "  replicas: 0\n---\n" + job("c") + "  x: 1\n  y: 2\n"
    assert [line.split(": ")[0] for line in refused(lambda: load_text(text, name="f"))] == [
        "f:4:9", "f:16:13", "f:25:3", "f:26:3",
    ]  # fmt: skip


def test_thousands_of_problems_are_cut_short() -> None:
    text = job("x") + "".join(f"  x{number}: 1\n" for number in range(3000))
    problems = refused(lambda: load_text(text))
    assert problems[0] == "manifest:1:1: has 2,000 more problems than are shown here"
    assert len(problems) == 1001


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + job("a") + "---\n\ufeff" + job("b"),
        job("a") + "\ufeff---\n" + job("b"),
        job("a") + "---\n\ufeff---\n" + job("b"),
        job("a") + "\ufeff# of b\n\n---\n# more\n" + job("b"),
        job("a") + "--- # next\n\n# of b\n\ufeff" + job("b"),
        (job("a") + "---\n\ufeff" + job("b")).replace("\n", "\r\n"),
    ],
)
def test_a_byte_order_mark_may_begin_each_document(text: str) -> None:
    assert names(load_text(text)) == ["a", "b"]


def test_a_byte_order_mark_within_a_document_is_refused_or_text() -> None:
    [problem] = refused(lambda: load_text(job("a").replace("spec:", "\ufeffspec:")))
    assert problem.startswith("manifest:5:")
    quoted = job("a").replace("[python]", '["a\ufeff---"]')
    assert load_text(quoted)[0].document["spec"]["command"] == ["a\ufeff---"]


def test_byte_order_marks_are_looked_for_in_linear_time() -> None:
    began = time.process_time()
    with pytest.raises(InvalidManifest):
        load_text("---\n" + "\n# x\n" * 200_000 + "\ufeff\ufeff")
    assert time.process_time() - began < 10
