"""docs/adding-a-controller.md is followed: its package is written down, found, and run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus import controllers
from cumulus.controllers.composition import declared

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-controller.md"


def blocks() -> dict[str, str]:
    """The page's files by path."""
    return dict(re.findall(r"`([\w/]+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's package, among the controllers."""
    for path, text in blocks().items():
        if path.startswith("cumulus/controllers/"):
            file = tmp_path / Path(path).relative_to("cumulus/controllers")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            (file.parent / "__init__.py").touch()
    monkeypatch.setattr(controllers, "__path__", [*controllers.__path__, str(tmp_path)])
    yield
    for name in [name for name in sys.modules if name.startswith("cumulus.controllers.waiting")]:
        del sys.modules[name]


@pytest.mark.usefixtures("package")
def test_a_package_that_was_added_is_found_and_its_controller_runs() -> None:
    assert "waiting" in {controller.name for controller in declared()}
    test: dict[str, object] = {}
    exec(blocks()["tests/controllers/test_waiting.py"], test)
    [run] = [found for name, found in test.items() if name.startswith("test_")]
    assert callable(run)
    run()


def test_every_controller_has_a_name_of_its_own() -> None:
    names = [controller.name for controller in declared()]
    assert len(names) == len(set(names))
    assert "waiting" not in names


def test_a_package_that_declares_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent" / "__init__.py").touch()
    (tmp_path / "silent" / "declaration.py").touch()
    monkeypatch.setattr(controllers, "__path__", [*controllers.__path__, str(tmp_path)])
    try:
        with pytest.raises(TypeError, match=r"controllers\.silent\.declaration has no CONTROLLERS"):
            declared()
    finally:
        sys.modules.pop("cumulus.controllers.silent", None)
        sys.modules.pop("cumulus.controllers.silent.declaration", None)
