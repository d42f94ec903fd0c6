"""The library runs without the rest of Cumulus: as a copied folder, from a zip file, on old Pythons."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cumulus import checkpoint
from cumulus.checkpoint.layout import newest
from tests.waiting import PATIENCE

FOLDER = Path(checkpoint.__file__).parent
PROGRAM = """
import sys
{imports}
state = checkpoint.load_checkpoint() or {{"step": 0}}
for step in range(state["step"], state["step"] + 3):
    assert not checkpoint.should_checkpoint()
    checkpoint.save_checkpoint({{"step": step + 1}}, step=step + 1, wait=step % 2 == 0)
print(checkpoint.latest().step, sorted(name for name in sys.modules if name.startswith("cumulus") and
      not name.startswith("cumulus.checkpoint")))
"""
OLD = ("3.9", "3.10")
AT_EXIT = """
import sys
{imports}
checkpoint.save_checkpoint(b"x" * 3_000_000, step=1)
checkpoint.save_checkpoint(b"y" * 3_000_000, step=2, wait=False)
"""


def python(program: str, directory: Path, *flags: str, interpreter: str = sys.executable, version: str = "") -> str:
    # pyenv starts the one of this name that it is told.
    env = {**os.environ, "PYENV_VERSION": version} if version else None
    command = [interpreter, *flags, "-c", program]
    done = subprocess.run(
        command, cwd=directory, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_within_cumulus_nothing_else_of_it_is_imported(tmp_path: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(FOLDER.parents[1])!r})\n" + PROGRAM.format(
        imports="from cumulus import checkpoint"
    )
    assert python(program, tmp_path, "-S") == "3 ['cumulus']\n"
    assert python(program, tmp_path, "-S") == "6 ['cumulus']\n"


def test_as_a_folder_that_was_copied(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("__pycache__"))
    assert python(PROGRAM.format(imports="import checkpoint"), tmp_path, "-S") == "3 []\n"


def test_from_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.pyz", "w") as archive:
        archive.writestr("cumulus/__init__.py", "")
        for path in FOLDER.rglob("*.py"):
            archive.write(path, f"cumulus/checkpoint/{path.relative_to(FOLDER)}")
    imports = "sys.path.insert(0, 'all.pyz')\nfrom cumulus import checkpoint"
    assert python(PROGRAM.format(imports=imports), tmp_path, "-S") == "3 ['cumulus']\n"


def test_on_an_old_python(tmp_path: Path) -> None:
    version = next(filter(runs, OLD), None)
    if version is None:
        pytest.skip("NOT TESTED: there is no Python 3.9 or 3.10 here")
    shutil.copytree(FOLDER, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("__pycache__"))
    old = {"interpreter": f"python{version}", "version": version}
    assert python(PROGRAM.format(imports="import checkpoint"), tmp_path, "-S", **old) == "3 []\n"
    check_exit_waits(tmp_path / "exits", "sys.path.insert(0, '..'); import checkpoint", **old)


def runs(version: str) -> bool:
    try:
        return python("print(1)", Path("/"), interpreter=f"python{version}", version=version) == "1\n"
    except (AssertionError, OSError):
        return False


def check_exit_waits(directory: Path, imports: str, **interpreter: str) -> None:
    directory.mkdir()
    assert python(AT_EXIT.format(imports=imports), directory, "-S", **interpreter) == ""
    found = newest(str(directory / "checkpoints"))
    assert found is not None
    assert found.step == 2


def test_exit_waits_for_a_save_beside_the_program(tmp_path: Path) -> None:
    imports = f"sys.path.insert(0, {str(FOLDER.parents[1])!r}); from cumulus import checkpoint"
    for turn in range(3):
        check_exit_waits(tmp_path / str(turn), imports)


def test_the_layout_alone_loads_no_more(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(FOLDER.parents[1])!r})
import cumulus.checkpoint.layout, cumulus.checkpoint.variables
print(sorted(name for name in sys.modules if name.startswith("cumulus.checkpoint.")))
"""
    assert python(program, tmp_path, "-S") == "['cumulus.checkpoint.layout', 'cumulus.checkpoint.variables']\n"


def test_every_name_is_there() -> None:
    for name in checkpoint.__all__:
        assert getattr(checkpoint, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = checkpoint.nothing
