"""A fake orchestrator, and clients of it with a configuration directory of their own; the real daemon."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulus.sdk import CumulusClient
from tests.sdk.bed import Bed
from tests.sdk.fake_orchestrator import FakeOrchestrator

MakeClient = Callable[[], CumulusClient]


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's key is."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("CUMULUS_HOME", "CUMULUS_ORCHESTRATOR_URL", "CUMULUS_TOKEN", "CUMULUS_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config" / "cumulus"


@pytest.fixture
def orchestrator(tmp_path: Path) -> Iterator[FakeOrchestrator]:
    directory = tmp_path / "orchestrator"
    directory.mkdir()
    made = FakeOrchestrator(directory)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of its own, on sys.path; what is imported from it is forgotten afterwards."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("")
    monkeypatch.syspath_prepend(str(root))
    before = set(sys.modules)
    yield root
    for name in set(sys.modules) - before:
        if str(root) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """One daemon for all tests of a module."""
    made = Bed(tmp_path_factory.mktemp("sdk"))
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture
def client(orchestrator: FakeOrchestrator, project: Path) -> Iterator[CumulusClient]:
    with CumulusClient(orchestrator.address, project=project) as made:
        yield made
