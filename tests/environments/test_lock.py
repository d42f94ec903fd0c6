"""The document that a client makes from `requirements=`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.environments.document import not_hashed
from cumulus.environments.lock import document_of
from cumulus.errors import InvalidEnvironment
from tests.environments.packages import Index
from tests.environments.test_ensure import UV

needs_uv = pytest.mark.skipif(UV is None, reason="there is no uv")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    index = Index(tmp_path / "index")
    for name, value in {**index.variables, "UV_CACHE_DIR": str(tmp_path / "uv")}.items():
        monkeypatch.setenv(name, value)
    return index


@pytest.fixture
def no_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulus.environments.lock.shutil.which", lambda *_, **__: None)


@needs_uv
def test_a_list_is_resolved_to_versions_with_hashes(index: Index, tmp_path: Path) -> None:
    document = document_of(["answer>=1"], "3.11", cache=tmp_path / "locks")
    assert document.hashed
    assert not_hashed(document.requirements) is None
    assert index.hashes["answer"] in document.requirements
    # The second time nothing is asked: the index may be gone.
    (index.root / "answer").rename(index.root / "gone")
    assert document_of(["answer>=1"], "3.11", cache=tmp_path / "locks") == document
    assert os.listdir(tmp_path / "locks") == [f for f in os.listdir(tmp_path / "locks") if f.endswith(".txt")]


@needs_uv
def test_what_can_not_be_resolved_is_said_before_anything_is_queued(index: Index) -> None:
    with pytest.raises(InvalidEnvironment, match="nowhere") as caught:
        document_of(["nowhere>=3"], "3.11")
    assert "\n" not in str(caught.value)


@needs_uv
@pytest.mark.parametrize("wrong", ["numpy==", "!!x", "a b c"])
def test_a_requirement_that_is_none_is_named(index: Index, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(InvalidEnvironment) as caught:
        document_of(["# gr\u00fcn", "answer>=1", wrong], "3.11")
    assert str(caught.value).startswith(f"requirements: {wrong!r} is no requirement: ")
    assert caught.value.hint


@needs_uv
def test_a_lock_of_uv_is_taken_as_it_is(index: Index, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["answer"]\n'
    )
    assert UV is not None
    subprocess.run([UV, "lock", "--quiet"], cwd=tmp_path, check=True)
    document = document_of(tmp_path / "uv.lock")
    assert "answer==1.0" in document.requirements
    assert "mine" not in document.requirements
    assert document.hashed


def test_without_uv_a_list_goes_as_it_is(no_uv: None) -> None:
    document = document_of(["answer>=1", "built"], "3.11")
    assert document.requirements == "answer>=1\nbuilt\n"
    assert not document.hashed


def test_what_has_hashes_is_a_lock_already(no_uv: None, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(f"built==1.0 --hash=sha256:{'1' * 64}\n")
    (tmp_path / "all.txt").write_text(f"answer==1.0 --hash=sha256:{'0' * 64}\n-r more.txt\n")
    document = document_of(tmp_path / "all.txt", "3.11")
    assert document.hashed
    assert "built==1.0" in document.requirements


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("numpy", "there is no file numpy"),
        (["./mine"], "'./mine' is on this machine"),
        (["-e ."], "is on this machine"),
        (["mine @ file:../mine"], "is on this machine"),
        (["a\nb"], "is no requirement"),
        ([3], "3 is no requirement"),
        (["-c constraints.txt"], "needs uv"),
    ],
)
def test_what_can_not_travel_is_refused(no_uv: None, given: object, says: str) -> None:
    with pytest.raises(InvalidEnvironment) as caught:
        document_of(given, "3.11")  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_a_file_that_includes_itself_is_refused(no_uv: None, tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("-r all.txt\n")
    with pytest.raises(InvalidEnvironment, match="includes itself"):
        document_of(tmp_path / "all.txt", "3.11")
