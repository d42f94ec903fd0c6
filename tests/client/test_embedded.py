"""State directories that can't be one are named, also where a command only reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.client.connect import connect
from cumulus.client.endpoint import Endpoint
from cumulus.errors import StoreUnavailable


@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_no_state_directory(tmp_path: Path, create: bool) -> None:
    home = tmp_path / "file"
    home.touch()
    with pytest.raises(StoreUnavailable, match=r"^the store in .*/file/store cannot be used: ") as caught:
        connect(Endpoint("embedded", str(home)), create=create)
    assert caught.value.hint == "set CUMULUS_HOME to a directory that you may write"


def test_what_is_not_there_is_empty_and_not_made(tmp_path: Path) -> None:
    home = tmp_path / "none"
    with connect(Endpoint("embedded", str(home))) as client:
        assert client.revision() == 0
    assert not home.exists()
