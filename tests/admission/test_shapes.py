"""Values of another shape than a field's: told as problems, never a defect."""

from __future__ import annotations

import pytest

from cumulus.admission import admit
from cumulus.errors import InvalidObject
from cumulus.resources.registry import BY_NAME


@pytest.mark.parametrize("spec", [[{"env": False}], [{"mounts": {"a": 1}}], [{"gpu": [1]}], {"env": {"a": 1}}, 5])
def test_another_shape_is_a_problem(spec: object) -> None:
    document = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": "a"}, "spec": spec}
    with pytest.raises(InvalidObject):
        admit.admit_create(BY_NAME["GPUJob"], document, user=True)
