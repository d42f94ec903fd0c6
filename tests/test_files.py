"""Files that are whole or not there, and a state directory's name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cumulus.lib import state_id
from cumulus.lib.files import replacing, write_durably, write_once


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(str(path), b"one")
    with replacing(str(path)) as file:
        file.write(b"two")
        file.flush()
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")

    def write() -> None:
        with replacing(str(path), durable=False) as file:
            file.write(b"two")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_copy_of_a_state_directory_has_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = state_id.find(str(tmp_path / "a"))
    first.note("node", "gpu-1")
    assert state_id.find(str(tmp_path / "a")) == first
    assert first.recall("node") == "gpu-1"
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = state_id.find(str(tmp_path / "b"))
    assert second.id != first.id
    assert second.recall("node") == ""
    first.note("node", "")
    assert first.recall("node") == ""


def test_a_file_that_is_written_once_stays(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_once(str(path), b"first")
    write_once(str(path), b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
