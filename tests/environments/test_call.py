"""`requirements=` from end to end: the SDK, a real daemon, and an index in a directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.errors import InvalidEnvironment
from cumulus.sdk import CumulusClient
from tests.e2e.conftest import Machine, serving
from tests.environments.packages import Index

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("environments")]

MODULE = """
from cumulus.sdk import CumulusClient
from sdk.client import CumulusClient as Same

def ask():
    import answer
    return answer.value, answer.__file__
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("machine")
    index = Index(directory / "index")
    made = Machine(directory)
    made.serves_grpc = True
    made.env |= index.variables
    with serving(made):
        yield made


@pytest.fixture
def client(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CumulusClient]:
    """Of a project with one module."""
    for name in ("CUMULUS_HOME", "CHRONOS_HOME", "UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, machine.env[name])
    monkeypatch.delenv("CUMULUS_ORCHESTRATOR_URL", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    project = tmp_path / "project"
    project.mkdir()
    (project / "mine_with_sdk.py").write_text(MODULE)
    monkeypatch.syspath_prepend(project)
    with CumulusClient(project=project) as made:
        yield made
    sys.modules.pop("mine_with_sdk", None)


def test_a_call_has_what_it_asks_for(client: CumulusClient, machine: Machine) -> None:
    import mine_with_sdk

    value, file = client.run(mine_with_sdk.ask, requirements=["answer>=1"], gpu_memory=0.1, duration="5m")
    assert value == 42
    assert file.startswith(f"{machine.directory}/cumulus/")
    # The second call waits for no build.
    assert client.run(mine_with_sdk.ask, requirements=["answer>=1"], gpu_memory=0.1, duration="5m") == (value, file)
    with pytest.raises(ModuleNotFoundError):
        client.run(mine_with_sdk.ask, gpu_memory=0.1, duration="5m")


def test_what_is_not_to_be_had_fails_before_anything_is_queued(client: CumulusClient, machine: Machine) -> None:
    import mine_with_sdk

    before = machine.items("job")
    with pytest.raises(InvalidEnvironment, match="nowhere"):
        client.run(mine_with_sdk.ask, requirements=["./nowhere"])
    assert len(machine.items("job")) == len(before)
