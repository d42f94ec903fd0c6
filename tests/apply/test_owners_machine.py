"""Several people apply, force, patch and label one job, in any order, against an oracle of who owns which field.

Nobody loses a field that they own and nobody else took; who leaves a field last takes it away; applying again writes
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cumulus.apply import fieldset, ownership
from cumulus.clock import FakeClock
from cumulus.errors import ApplyConflict
from cumulus.resources.key import Document, Key
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore

ME = Identity("tester", 0)
TRAIN = Key("GPUJob", "default", "train")
MISSING = "nothing"
FIELDS: dict[str, tuple[Any, Any]] = {
    ".metadata.labels.a": (MISSING, st.sampled_from("12")),
    ".metadata.labels.b": (MISSING, st.sampled_from("12")),
    ".metadata.annotations.note": (MISSING, st.sampled_from("12")),
    ".spec.priority": (0, st.integers(0, 2)),
    ".spec.suspend": (False, st.booleans()),
    ".spec.ttlAfterFinished": (MISSING, st.sampled_from(["1h", "2h"])),
    ".spec.retry.limit": (0, st.integers(0, 2)),
    ".spec.retry.backoff": ("10s", st.sampled_from(["10s", "20s"])),
}
"""Each with its default and what somebody may set."""

values = st.fixed_dictionaries({}, optional={field: choices for field, (_, choices) in FIELDS.items()})
appliers = st.sampled_from(["one", "two", "cumulus"])
Owner = tuple[str, str]


class Owners(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        store = MemoryStore(FakeClock())
        self.objects = Service(lambda: store, Path(), FakeClock()).objects
        self.values: dict[str, Any] = {field: default for field, (default, _) in FIELDS.items()}
        self.owners: dict[str, set[Owner]] = {field: set() for field in FIELDS}
        # What a job needs, which is nobody else's business.
        self.objects.apply_patch(ME, TRAIN, _document({}, whole=True), field_manager="base")

    @rule(manager=appliers, wanted=values, force=st.booleans())
    def apply(self, manager: str, wanted: dict[str, Any], force: bool) -> None:
        me = (manager, "Apply")
        changed = {field for field, value in wanted.items() if value != self.values[field]}
        # The command line is in no conflict with itself.
        mine = {me, ("cumulus", "Update")} if manager == "cumulus" else {me}
        conflicts = {(owner[0], field) for field in changed for owner in self.owners[field] - mine}
        if conflicts and not force:
            with pytest.raises(ApplyConflict) as caught:
                self._apply(manager, wanted, force)
            assert {(conflict.manager, conflict.field) for conflict in caught.value.conflicts} == conflicts
            return
        self._apply(manager, wanted, force)
        for field in FIELDS:
            if field in changed:
                self.owners[field] = set()
            if field in wanted:
                self.values[field] = wanted[field]
                self.owners[field].add(me)
            elif me in self.owners[field]:
                self.owners[field].remove(me)
                if not self.owners[field]:
                    self.values[field] = FIELDS[field][0]
        revision = self.objects.revision(ME)
        self._apply(manager, wanted, force=False)
        assert self.objects.revision(ME) == revision

    @rule(manager=st.sampled_from(["one", "web"]), wanted=values)
    def patch(self, manager: str, wanted: dict[str, Any]) -> None:
        self.objects.patch(ME, TRAIN, _document(wanted), field_manager=manager)
        for field, value in wanted.items():
            if value != self.values[field]:
                self.values[field], self.owners[field] = value, {(manager, "Update")}

    @rule(name=st.sampled_from("ab"), manager=st.sampled_from(["one", "web"]))
    def take_a_label_off(self, name: str, manager: str) -> None:
        field = f".metadata.labels.{name}"
        self.objects.patch(ME, TRAIN, _document({field: None}), field_manager=manager)
        self.values[field], self.owners[field] = MISSING, set()

    @rule(value=st.sampled_from("12"))
    def label(self, value: str) -> None:
        """By `cumulus label`."""
        self.objects.set_labels(ME, TRAIN, {"a": value}, overwrite=True)
        if self.values[".metadata.labels.a"] != value:
            self.values[".metadata.labels.a"] = value
            self.owners[".metadata.labels.a"] = {("cumulus", "Update")}

    @invariant()
    def the_object_is_what_is_expected(self) -> None:
        document = self.objects.get(ME, TRAIN)
        assert {field: _at(document, field) for field in FIELDS} == self.values
        found: dict[str, set[Owner]] = {field: set() for field in FIELDS}
        for owner, owned in ownership.of(document).items():
            for path in owned.fields:
                if (field := fieldset.text(path)) in FIELDS:
                    found[field].add((owner.manager, owner.operation))
        assert found == self.owners

    def _apply(self, manager: str, wanted: dict[str, Any], force: bool) -> None:
        self.objects.apply_patch(ME, TRAIN, _document(wanted), field_manager=manager, force=force)


def _document(wanted: dict[str, Any], *, whole: bool = False) -> Document:
    spec: Document = {"command": ["true"], "gpu": {"memory": "0.5", "duration": "1h"}} if whole else {}
    document: Document = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": "train"}}
    if spec:
        document["spec"] = spec
    for field, value in wanted.items():
        *names, last = field.split(".")[1:]
        below = document
        for name in names:
            below = below.setdefault(name, {})
        below[last] = value
    return document


def _at(document: Document, field: str) -> Any:
    found: Any = document
    for name in field.split(".")[1:]:
        found = found.get(name, MISSING) if isinstance(found, dict) else MISSING
    return found


TestOwners = Owners.TestCase
TestOwners.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
