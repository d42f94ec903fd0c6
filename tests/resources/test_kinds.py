"""What the registry's entries say of a kind agrees with its model."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cumulus.resources.columns import Cells
from cumulus.resources.key import API_VERSION
from cumulus.resources.kind import Kind
from cumulus.resources.registry import BY_NAME, KINDS
from cumulus.resources.schema import root


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_is_the_models(kind: Kind) -> None:
    model = kind.model()
    assert (kind.name, kind.namespaced) == (model.KIND, model.NAMESPACED)
    assert kind.owns in ("", *BY_NAME)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_columns_and_selected_fields_are_there(kind: Kind) -> None:
    fields = dict(root(kind).walk())
    paths = {column.path for column in kind.columns if column.cell is None} | kind.selected
    assert paths <= fields.keys()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_conditions_and_ends_are_those_of_the_status(kind: Kind) -> None:
    fields = dict(root(kind).walk())
    assert kind.final_phases <= set(fields["status.phase"].choices if kind.final_phases else ())
    told = fields["status.conditions"].description if kind.conditions else ""
    assert all(type in told for type in kind.conditions)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_object_with_nothing_in_it_can_be_shown(kind: Kind) -> None:

    now = datetime(2030, 1, 1, tzinfo=UTC)
    document = {"apiVersion": API_VERSION, "kind": kind.name, "metadata": {"name": "x"}}
    assert kind.summary(document, now)
    assert len(Cells(now).row(kind.columns, document)) == len(kind.columns)
    assert not kind.over(document)


def test_what_all_means_is_work_that_people_make() -> None:
    assert [kind.name for kind in KINDS if kind.work] == ["GPUJob", "GPUPartition"]
