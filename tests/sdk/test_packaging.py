"""What travels with a call: which modules, in which bytes."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.calls.envelope import LARGE_ARGUMENT, MOST_ARGUMENTS
from cumulus.errors import UsageError
from cumulus.lib.ignored import Ignored, rules_of
from cumulus.sdk.errors import NotPicklable, SourceTooLarge
from cumulus.sdk.packaging import pickling
from cumulus.sdk.packaging.archive import Archives, zipped
from cumulus.sdk.packaging.blob import Blob
from cumulus.sdk.packaging.source import Project


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def names(project: Project, function: Any) -> list[str]:
    return [file.name for file in project.files(function)]


def local(project: Path, files: dict[str, str], module: str) -> Any:
    write(project, files)
    __import__(module)
    return sys.modules[module]


def test_what_is_imported_travels_and_what_a_function_imports_later(project: Path) -> None:
    made = local(
        project,
        {
            "work.py": "import pkg.a\ndef f():\n    import late\n    return late.x\n",
            "late.py": "from deep.inner import y as x\n",
            "deep/__init__.py": "", "deep/inner.py": "y = 1\n", "deep/data.json": "{}",
            "pkg/__init__.py": "", "pkg/a.py": "", "pkg/b.py": "", "pkg/__pycache__/x.pyc": "",
            "unused.py": "", "notes.txt": "",
        },
        "work",
    )  # fmt: skip
    assert names(Project(project), made.f) == [
        "deep/__init__.py", "deep/data.json", "deep/inner.py", "late.py", "pkg/__init__.py", "pkg/a.py", "pkg/b.py",
        "work.py",
    ]  # fmt: skip
    assert "notes.txt" in names(Project(project, ["*.txt"]), made.f)
    assert "unused.py" in names(Project(project, ["unused.py"]), made.f)
    for wrong in ("../x", "/etc/passwd", "nothing*"):
        with pytest.raises(UsageError, match="include="):
            names(Project(project, [wrong]), made.f)


def test_a_src_layout_and_a_module_elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(project / "src"))
    made = local(project, {"src/lib1/__init__.py": "def f(): pass\n"}, "lib1")
    assert names(Project(project), made.f) == ["lib1/__init__.py"]
    elsewhere = tmp_path / "elsewhere"
    write(
        elsewhere, {"outside/__init__.py": "", "outside/inner/__init__.py": "", "outside/inner/work.py": "def f(): 1\n"}
    )
    monkeypatch.syspath_prepend(str(elsewhere))
    from outside.inner import work  # type: ignore[import-not-found]

    try:
        with pytest.raises(UsageError, match="neither installed nor in the project") as refused:
            names(Project(project), work.f)
        assert refused.value.hint == f"give the project that it is in: CumulusClient(project={str(elsewhere)!r})"
        # And that is one from which it travels.
        assert "outside/inner/work.py" in names(Project(elsewhere), work.f)
    finally:
        for name in ("outside", "outside.inner", "outside.inner.work"):
            del sys.modules[name]


def test_an_include_does_not_lead_out_of_the_project(project: Path, tmp_path: Path) -> None:
    write(tmp_path, {"elsewhere/secret.txt": "x"})
    write(project, {"data/own.txt": "x"})
    for name in ("linked", "data/linked"):
        (project / name).symlink_to(tmp_path / "elsewhere")
    assert names(Project(project, ["data", "linked"]), len) == ["data/own.txt"]


def test_what_is_installed_stays(project: Path) -> None:
    import yaml

    write(project, {".venv/lib/python3.11/site-packages/thing/__init__.py": ""})
    assert names(Project(project), yaml.safe_load) == []


def test_the_same_files_are_the_same_bytes(project: Path) -> None:
    made = local(project, {"same.py": "def f(): pass\n"}, "same")
    archives = Archives(Project(project))
    first, modules = archives.of(made.f)
    assert first is not None
    assert modules == {"same"}
    assert archives.of(made.f)[0] is first, "it is not made again"
    os.utime(project / "same.py", (1, 1))
    again, _ = archives.of(made.f)
    assert again is not None
    assert again.sha256 == first.sha256
    (project / "same.py").write_text("def f(): return 1\n")
    changed, _ = archives.of(made.f)
    assert changed is not None
    assert changed.sha256 != first.sha256


def test_a_large_project_is_refused_with_its_largest_files(project: Path) -> None:
    made = local(
        project, {"big/__init__.py": "def f(): pass\n", "big/a.bin": "x" * 5000, "big/b.bin": "y" * 9000}, "big"
    )
    with pytest.raises(SourceTooLarge, match=r"big/b\.bin \(8\.8Ki\), big/a\.bin") as caught:
        Archives(Project(project), limit=10_000).of(made.f)
    assert "cumulusignore" in str(caught.value.hint)
    write(project, {".cumulusignore": "*.bin\n"})
    assert Archives(Project(project), limit=10_000).of(made.f)[0]


def test_links_that_lead_out_stay(project: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    made = local(project, {"linked/__init__.py": "def f(): pass\n", "linked/real.txt": "1"}, "linked")
    (project / "linked" / "out").symlink_to(tmp_path / "secret")
    (project / "linked" / "in").symlink_to("real.txt")
    (project / "linked" / "loop").symlink_to(".")
    assert names(Project(project), made.f) == ["linked/__init__.py", "linked/in", "linked/real.txt"]


def test_scripts_keep_their_x_bit(project: Path) -> None:
    made = local(project, {"scripts/__init__.py": "def f(): pass\n", "scripts/run.sh": "#!/bin/sh\n"}, "scripts")
    (project / "scripts" / "run.sh").chmod(0o755)
    with zipfile.ZipFile(io.BytesIO(zipped(Project(project).files(made.f)))) as archive:
        assert archive.getinfo("scripts/run.sh").external_attr >> 16 & 0o111
        assert not archive.getinfo("scripts/__init__.py").external_attr >> 16 & 0o111


def test_the_project_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a/pyproject.toml": "", "a/b/c/x.py": ""})
    assert Project.around(tmp_path / "a/b/c").root == tmp_path / "a"
    monkeypatch.setenv("HOME", str(tmp_path / "a"))
    assert Project.around(tmp_path / "a/b/c").root == tmp_path / "a/b/c", "never a whole home directory"


GIT_LINES = (
    "*.log", "!keep.log", "/top", "dir/", "a/b", "**/deep", "x/**", "x/**/z", "*.[oa]", "*.[!p]y", r"\!odd", r"sp\ ",
    "q?t", "#comment", "trail  ", "[ab", "doc/*.txt", "b/",
)  # fmt: skip
GIT_PATHS = (
    "a.log", "keep.log", "s/keep.log", "top", "s/top", "dir/f", "s/dir/f", "a/b/f", "s/a/b/f", "deep/f", "s/t/deep",
    "x/f", "x/y/z", "m.o", "m.py", "m.xy", "!odd", "qat", "qt", "trail", "[ab", "doc/a.txt", "doc/s/a.txt", "s/b/f",
)  # fmt: skip


@given(st.lists(st.sampled_from(GIT_LINES), max_size=6))
def test_it_ignores_what_git_ignores(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    root = _repository(tmp_path_factory)
    (root / ".gitignore").write_text("".join(f"{line}\n" for line in lines))
    done = subprocess.run(
        ["git", "ls-files", "-z", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    kept = set(done.stdout.split("\0")) - {"", ".gitignore"}
    ignored = Ignored(root)
    assert {path for path in GIT_PATHS if root / path not in ignored} == kept


def _repository(factory: pytest.TempPathFactory) -> Path:
    root = factory.getbasetemp() / "gitignore"
    if not root.exists():
        write(root, dict.fromkeys(GIT_PATHS, "x"))
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def test_an_ignore_file_of_ours_wins(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "*.bin\n", ".cumulusignore": "!model.bin\n!.env\n", "s/.gitignore": "local\n"})
    write(tmp_path, {"model.bin": "", "other.bin": "", ".env": "", "s/local": "", "local": "", ".git/config": ""})
    ignored = Ignored(tmp_path)
    left_out = {name for name in ("model.bin", "other.bin", ".env", "s/local", "local", ".git/config")
                if tmp_path / name in ignored}  # fmt: skip
    assert left_out == {"other.bin", "s/local", ".git/config"}
    assert rules_of(("", "#", "/", "!")) == ()


KEY = bytes(32)
LARGE = bytes(LARGE_ARGUMENT)


def test_small_arguments_are_in_the_payload() -> None:
    made = pickling.pickled(KEY, len, ["text"], {"more": 1})
    assert made.arguments == ()
    assert made.payload == pickling.payload(KEY, len, ["text"], {"more": 1})[0]


def test_a_large_argument_is_apart_and_the_same_in_each_call() -> None:
    first, again = (pickling.pickled(bytes([at] * 32), len, [at, LARGE], {"x": LARGE}) for at in range(2))
    assert len(first.payload) < 1000
    assert first.payload != again.payload
    assert first.arguments == again.arguments
    assert len(first.arguments) == 1
    # Two that are equal are two objects in the call, as they are here.
    other = pickling.pickled(KEY, len, [LARGE], {"x": LARGE[:-1] + b"\0"})
    assert (len(other.arguments), other.payload.count(other.arguments[0].sha256.encode())) == (1, 2)


def test_what_is_large_but_no_argument_stays_in_the_payload() -> None:
    data = LARGE
    calls: list[tuple[Any, list[Any]]] = [
        (lambda: len(data), []),
        (max, [bytes(LARGE_ARGUMENT // 2), bytearray(LARGE)[:-200]]),
    ]
    for function, args in calls:
        made = pickling.pickled(KEY, function, args, {})
        assert (made.arguments, len(made.payload) > LARGE_ARGUMENT) == ((), True)


def test_there_are_no_more_large_arguments_than_a_call_may_have() -> None:
    made = pickling.pickled(KEY, max, [bytes([at]) * (LARGE_ARGUMENT + 1) for at in range(MOST_ARGUMENTS + 1)], {})
    assert len(made.arguments) == MOST_ARGUMENTS
    assert len(made.payload) > LARGE_ARGUMENT


def test_a_large_argument_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(NotPicklable, match="argument 2 of len, a list"):
        pickling.pickled(KEY, len, [LARGE, [LARGE, (each for each in ())]], {})


def test_large_bytes_of_an_argument_are_not_copied() -> None:
    large, small = b"l" * LARGE_ARGUMENT, [b"s", bytearray(2**17)]
    [blob] = pickling.pickled(KEY, len, [[small, large, large + b"2"]], {}).arguments
    assert any(piece is large for piece in blob.pieces)
    assert pickle.loads(b"".join(blob.pieces)) == [small, large, large + b"2"]
    assert blob.size == sum(map(len, blob.pieces))


@pytest.mark.parametrize("offset", [0, 1, 5, 6, 7, 12, 13])
def test_a_blob_is_sent_from_where_it_was_cut_off(offset: int) -> None:
    blob = Blob.of(b"abcdef", b"g", b"hijklm")
    parts = list(blob.parts(offset, blob.size, 4))
    assert b"".join(parts) == b"abcdefghijklm"[offset:]
    assert all(0 < len(part) <= 4 for part in parts)
    assert b"".join(blob.parts(4, 9, 100)) == b"efghi"
