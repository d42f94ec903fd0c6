"""Rows made of packed objects: the same as those made of the objects, whenever and for whomever they are asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import orjson
import pytest

from cumulus.clock import FakeClock, timestamp
from cumulus.lib.sized_cache import SizedCache
from cumulus.resources.columns import AllOwned
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.packed import PackedRun
from cumulus.resources.registry import BY_NAME
from cumulus.server.http.kubernetes.representation import Form
from cumulus.server.http.kubernetes.rows import KeptRows
from cumulus.server.http.kubernetes.tables import Shown
from tests.documents import active, failed, job, node, running

JOB = BY_NAME["GPUJob"]
TABLE = Form("Table")
HEAD = {"resourceVersion": "7"}


class Tables:
    """Tables of one server, whose clock moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kept = KeptRows(SizedCache(2**20), WeakKeyDictionary())
        self.runs: dict[bytes, list[PackedRun]] = {}
        self.partitions: list[Document] = []

    def check(self, kind: Kind, items: Sequence[Document], include: str = "") -> Any:
        """The table, which is the same both ways."""

        def shown() -> Shown:
            return Shown(kind, TABLE, include, self.clock, AllOwned([kind], lambda _: self.partitions), self.kept)

        assert shown().takes_packed
        wanted = shown().many(items, HEAD)
        run = PackedRun([orjson.dumps(item) for item in items])
        # Of a run that is new, the same as it is kept, and the same as it was kept before.
        for runs in ([run], [run], [run], self.runs.setdefault(run.joined + include.encode(), [run])):
            assert json.loads(b"".join(shown().packed(runs, HEAD))) == wanted
        return wanted


@pytest.fixture
def tables() -> Tables:
    return Tables()


def made(document: Document, at: str, uid: str = "u") -> Document:
    return {**document, "metadata": {**document["metadata"], "creationTimestamp": at, "uid": uid}}


def test_ages_go_on(tables: Tables) -> None:
    items = [made(job("a"), timestamp(tables.clock.now())), made(failed("b"), "2020-01-01T00:00:00Z", "v")]
    first = tables.check(JOB, items)
    tables.clock.advance(90)
    second = tables.check(JOB, items)
    assert (first["rows"][0]["cells"][-1], second["rows"][0]["cells"][-1]) == ("0s", "1m30s")
    assert [row["cells"][:-1] for row in first["rows"]] == [row["cells"][:-1] for row in second["rows"]]


def test_cells_that_go_by_the_clock_are_right_at_any_moment(tables: Tables) -> None:
    """Also where the clock goes back, and around the moments at which they change."""
    now = tables.clock.now()
    partition = BY_NAME["GPUPartition"]
    items = [
        {**active(f"p-{n}"), "status": {"phase": "Active", "expiresAt": timestamp(now + timedelta(seconds=length))}}
        for n, length in enumerate((1, 59.5, 3600, 86400, 90000.000001, 200000))
    ]
    items = [made(item, timestamp(now - timedelta(microseconds=n)), f"u{n}") for n, item in enumerate(items)]
    for step in (0, 0.999999, 0.000001, 59, 1, 3540, 59.999999, 0.000001, 82800, 61, 3600, 86400, -3661, -86400, 7):
        tables.clock.jump(step)
        tables.check(JOB, items)
        tables.check(partition, items)


def test_what_comes_to_belong_to_an_object_is_seen(tables: Tables) -> None:
    item = made(running("a"), timestamp(tables.clock.now()), "uid-a")
    before = tables.check(JOB, [item])
    ends = timestamp(tables.clock.now() + timedelta(hours=1))
    partition = active("p", owner=item)
    tables.partitions = [{**partition, "status": {"phase": "Active", "expiresAt": ends}}]
    during = tables.check(JOB, [item])
    tables.clock.advance(60)
    later = tables.check(JOB, [item])
    tables.partitions = []
    after = tables.check(JOB, [item])
    assert [table["rows"][0]["cells"][5] for table in (before, during, later, after)] == ["-", "in 1h", "in 59m", "-"]


@pytest.mark.parametrize("wrong", [None, "", "yesterday", 7, {"no": "moment"}])
def test_what_is_no_moment_is_shown_as_it_always_is(tables: Tables, wrong: Any) -> None:
    for _ in range(2):
        tables.check(JOB, [made(job("a"), wrong)])


@pytest.mark.parametrize("text", ['"', "\0", "\\u0000", "é\n", "x" * 1000])
def test_texts_are_told_as_they_are(tables: Tables, text: str) -> None:
    for _ in range(2):
        tables.check(JOB, [made(job("a", image=text, labels={"x": text}), "2020-01-01T00:00:00Z")])


@pytest.mark.parametrize("include", ["", "None", "Metadata"])
def test_each_kind_and_part(tables: Tables, include: str) -> None:
    for kind in BY_NAME.values():
        item: Document = {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": kind.name,
            "metadata": {"name": "a", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z"},
        }  # fmt: skip
        for _ in range(2):
            tables.check(kind, [item], include)
            tables.clock.advance(3)
    tables.check(BY_NAME["GPUNode"], [made(node("n"), "2020-01-01T00:00:00Z")], include)


def test_two_parts_of_one_object_are_two_rows(tables: Tables) -> None:
    item = made(job("a"), "2020-01-01T00:00:00Z")
    assert tables.check(JOB, [item], "None")["rows"][0]["object"] is None
    assert tables.check(JOB, [item], "Metadata")["rows"][0]["object"]["metadata"]["name"] == "a"


def test_whole_objects_and_yaml_are_made_of_objects() -> None:
    clock, kept = FakeClock(), KeptRows(SizedCache(2**20), WeakKeyDictionary())
    assert not Shown(JOB, TABLE, "Object", clock, kept=kept).takes_packed
    assert not Shown(JOB, Form("Table", yaml=True), "", clock, kept=kept).takes_packed
    assert not Shown(JOB, Form("PartialObjectMetadata"), "", clock, kept=kept).takes_packed
    assert Shown(JOB, Form(), "", clock).takes_packed
