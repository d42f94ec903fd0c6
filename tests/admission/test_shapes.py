"""Values of another shape than a field's: told as problems, never a defect."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from cumulus.admission import admit
from cumulus.errors import CumulusError, InvalidObject
from cumulus.resources.registry import BY_NAME


@pytest.mark.parametrize("spec", [[{"env": False}], [{"mounts": {"a": 1}}], [{"gpu": [1]}], {"env": {"a": 1}}, 5])
def test_another_shape_is_a_problem(spec: object) -> None:
    document = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": "a"}, "spec": spec}
    with pytest.raises(InvalidObject):
        admit.admit_create(BY_NAME["GPUJob"], document, user=True)


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values in it, maps and lists too."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, below in inside for found in leaves(below, (*path, name)))]


def replaced(value: object, path: tuple[str | int, ...], by: object) -> Any:
    """A copy with another value at the path."""
    if not path:
        return by
    if isinstance(value, list):
        return [replaced(below, path[1:], by) if index == path[0] else below for index, below in enumerate(value)]
    assert isinstance(value, dict)
    return {name: replaced(below, path[1:], by) if name == path[0] else below for name, below in value.items()}


def documents() -> list[dict[str, Any]]:
    """One of each kind, of the manifests; and an array with all that is filled in for each index."""
    filled = {
        "gpu": {"memory": "1Gi", "duration": "1h"}, "command": ["a", "$(CUMULUS_INDEX)"], "args": ["b"],
        "env": [{"name": "A", "value": "$(CUMULUS_INDEX)"}], "workingDir": "/tmp", "checkpoint": {"path": "/tmp/c"},
        "after": {"succeeded": ["x"]},
    }  # fmt: skip
    array = {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJobArray", "metadata": {"name": "a"},
        "spec": {"matrix": {"lr": ["1", "2"]}, "jobTemplate": {"spec": filled}},
    }  # fmt: skip
    files = sorted((Path(__file__).parents[2] / "manifests").rglob("*.yaml"))
    found = [each for path in files for each in yaml.safe_load_all(path.read_text()) if each]
    kinds = {each["kind"]: each for each in found if each.get("kind") in BY_NAME and "spec" in each}
    return [array, *kinds.values()]


@pytest.mark.parametrize("document", documents(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_whatever_is_wrong_the_other_rules_still_run(document: dict[str, Any]) -> None:
    """A rule over several fields that meets a wrong one says nothing of it, and never fails."""
    for path in leaves(document["spec"], ("spec",)):
        for wrong in (None, -1.5, "\x00", ["\x00"], {"\x00": "\x00"}):
            with suppress(CumulusError):
                admit.admit_create(BY_NAME[document["kind"]], replaced(document, path, wrong), user=True)
