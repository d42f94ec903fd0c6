"""The library runs without the rest of Cumulus: as a copied folder, from a zip file, on old Pythons."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cumulus import checkpoint

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
OLDEST = next((found for minor in (9, 10) if (found := shutil.which(f"python3.{minor}"))), None)


def python(program: str, directory: Path, *flags: str, interpreter: str = sys.executable) -> str:
    done = subprocess.run(
        [interpreter, *flags, "-c", program], cwd=directory, capture_output=True, text=True, timeout=60, check=False
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
    works = OLDEST and subprocess.run([OLDEST, "-c", ""], capture_output=True, check=False).returncode == 0
    if not works or OLDEST is None:
        pytest.skip("NOT TESTED: there is no Python 3.9 or 3.10 here")
    shutil.copytree(FOLDER, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("__pycache__"))
    assert python(PROGRAM.format(imports="import checkpoint"), tmp_path, "-S", interpreter=OLDEST) == "3 []\n"


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
