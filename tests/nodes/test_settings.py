"""How workers are logged in to, from the daemon's environment."""

from __future__ import annotations

import pytest

from cumulus.errors import UsageError
from cumulus.nodes.settings import SshSettings
from cumulus.nodes.workers import command
from cumulus.resources.node import SshAddress


def test_where_chronos_cli_is_on_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUMULUS_CHRONOS_PATH", "/opt/chronos/bin/chronos_cli")
    path = SshSettings().chronos_path
    assert command(SshAddress(host="gpu-1", user="root"), path) == "/opt/chronos/bin/chronos_cli"
    assert command(SshAddress(host="gpu-1", user="lab"), path) == "sudo -n /opt/chronos/bin/chronos_cli"
    # What a node says itself counts more.
    assert command(SshAddress(host="gpu-1", user="lab", chronosCli="mine"), path) == "mine"
    monkeypatch.setenv("CUMULUS_CHRONOS_PATH", "")
    assert command(SshAddress(host="gpu-1", user="root"), SshSettings().chronos_path) == "chronos_cli"


@pytest.mark.parametrize("wrong", ["chronos_cli", "/bin/x; reboot", "/bin/$(x)", "~/chronos_cli", "/"])
def test_it_is_one_whole_path(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUMULUS_CHRONOS_PATH", wrong)
    with pytest.raises(UsageError, match=r"CUMULUS_CHRONOS_PATH is .*, which is no whole path of a program"):
        SshSettings()
