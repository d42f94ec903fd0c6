"""A channel to containers of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.backends import channel
from cumulus.errors import BackendError
from cumulus.lib.execution import ExecRequest
from cumulus.nodes import local


def test_an_engine_that_is_not_there_is_told(tmp_path: Path) -> None:
    made = local.channel(str(tmp_path / "docker.sock"))
    with pytest.raises(BackendError, match="the engine of its node does not answer: No such file"):
        channel.execution(made, {"slot": "a", "label": "a=b"}, ExecRequest(("true",)))
