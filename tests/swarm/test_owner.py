"""Whose a Swarm is: one owner, whoever comes at the same moment, later, from an older version, or from a copy."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.swarm import owner, spec
from cumulus.backends.swarm.engine import NameTaken
from cumulus.backends.swarm.owner import Ownership
from cumulus.clock import FakeClock
from cumulus.errors import BackendError, NotOurs, UsageError
from cumulus.infrastructure import swarm as named_swarm
from cumulus.lib import state_id
from tests.waiting import PATIENCE


@dataclass
class FakeSwarm:
    """The part of a Swarm that ownership needs: names taken once, labels changed by version."""

    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: list[dict[str, Any]] = field(default_factory=list)
    before_create: Callable[[], None] = lambda: None
    version: int = 0

    def config(self, name: str) -> dict[str, Any] | None:
        return self.configs.get(name)

    def create_config(self, name: str, text: str, labels: Mapping[str, str]) -> str:
        self.before_create()
        if name in self.configs:
            raise NameTaken("it is there")
        self.version += 1
        spec = {"Name": name, "Labels": dict(labels)}
        self.configs[name] = {"ID": name, "Version": {"Index": self.version}, "Spec": spec}
        return name

    def relabel_config(self, id: str, version: int, labels: Mapping[str, str]) -> bool:
        found = self.configs.get(id)
        if found is None or found["Version"]["Index"] != version:
            return False
        self.version += 1
        spec = {**found["Spec"], "Labels": dict(labels)}
        self.configs[id] = {**found, "Version": {"Index": self.version}, "Spec": spec}
        return True

    def services(self, labels: Sequence[str]) -> Sequence[dict[str, Any]]:
        found = self.running
        for key, equals, value in (label.partition("=") for label in labels):
            found = [
                s for s in found if (s["Spec"]["Labels"].get(key) == value if equals else key in s["Spec"]["Labels"])
            ]
        return found

    def run(self, workload: str, instance: str) -> None:
        labels = {spec.INSTANCE: instance, spec.WORKLOAD: workload}
        self.running.append({"ID": workload, "Spec": {"Name": workload, "Labels": labels}})


class Plane:
    """A control plane: a store's id, and a state directory with records of workloads."""

    def __init__(
        self, swarm: FakeSwarm, root: Path, store: str = "store-a", named: str = "", records: str = ""
    ) -> None:
        self.root = root
        self.clock = FakeClock()
        root.mkdir(parents=True, exist_ok=True)
        self.ownership = Ownership(
            swarm, lambda: state_id.find(str(root)), self.clock, named=named, store_id=lambda: store,  # type: ignore[arg-type]
            known=lambda name: name in records.split(),
        )  # fmt: skip

    def instance(self) -> str:
        """As it is found out anew."""
        self.clock.advance(owner.CHECK_SECONDS + 1)
        return self.ownership.instance()


@pytest.fixture
def swarm() -> FakeSwarm:
    return FakeSwarm()


@pytest.fixture
def first(swarm: FakeSwarm, tmp_path: Path) -> Plane:
    made = Plane(swarm, tmp_path / "a" / "swarm")
    assert made.instance() == "store-a", "the name is the store's id"
    return made


def test_the_first_marks_the_swarm_and_the_second_is_told_whose_it_is(
    swarm: FakeSwarm, first: Plane, tmp_path: Path
) -> None:
    second = Plane(swarm, tmp_path / "b" / "swarm", "store-b")
    with pytest.raises(
        NotOurs, match=rf"belongs to the control plane at \S+@\S+:{tmp_path}/a \(the store store-a"
    ) as e:
        second.instance()
    assert "cumulus cluster adopt" in (e.value.hint or "")
    assert not second.ownership.confirmed
    assert first.instance() == "store-a"


def test_of_two_that_start_at_the_same_moment_one_owns_it(swarm: FakeSwarm, tmp_path: Path) -> None:
    """Both have seen that it is nobody's before either marks it."""
    both = threading.Barrier(2, timeout=PATIENCE)
    mutex = threading.Lock()
    planes = [Plane(swarm, tmp_path / store / "swarm", store) for store in ("store-a", "store-b")]
    answers: dict[str, str] = {}

    def met() -> None:
        both.wait()
        mutex.acquire()

    def start(store: str, plane: Plane) -> None:
        try:
            answers[store] = plane.instance()
        except NotOurs as error:
            answers[store] = type(error).__name__
        finally:
            mutex.release()

    swarm.before_create = met
    threads = [
        threading.Thread(target=start, args=(store, plane))
        for store, plane in zip(("store-a", "store-b"), planes, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(answers) == ["store-a", "store-b"]
    [winner] = [store for store, answer in answers.items() if answer == store]
    assert [answer for store, answer in answers.items() if store != winner] == ["NotOurs"]


def test_a_swarm_from_before_there_were_marks_is_its_users_and_nobody_elses(swarm: FakeSwarm, tmp_path: Path) -> None:
    swarm.run("default.old.uid-a1-r0", owner.UNNAMED)
    stranger = Plane(swarm, tmp_path / "b" / "swarm", "store-b")
    with pytest.raises(NotOurs, match=r"no owner's mark, but runs services .*: default\.old\.uid-a1-r0"):
        stranger.instance()
    assert not swarm.configs
    user = Plane(swarm, tmp_path / "a" / "swarm", records="default.old.uid-a1-r0")
    assert user.instance() == owner.UNNAMED, "what runs keeps its label"
    swarm.running.clear()
    assert user.instance() == owner.UNNAMED


def test_a_backup_restored_elsewhere_is_not_the_owner(swarm: FakeSwarm, first: Plane, tmp_path: Path) -> None:
    restored = Plane(swarm, tmp_path / "b" / "swarm", "store-a")
    with pytest.raises(NotOurs, match="another copy of this store"):
        restored.instance()


def test_a_copy_of_the_whole_state_directory_is_not_the_owner(swarm: FakeSwarm, first: Plane, tmp_path: Path) -> None:
    shutil.copytree(first.root, tmp_path / "b" / "swarm")
    copy = Plane(swarm, tmp_path / "b" / "swarm")
    assert not copy.ownership.confirmed, "nor does it take itself for it while the Swarm does not answer"
    with pytest.raises(NotOurs, match="another copy of this store"):
        copy.instance()
    assert state_id.find(str(first.root)).id == state_id.find(str(first.root)).id != state_id.find(str(copy.root)).id
    assert state_id.find(str(first.root), "another machine").id != state_id.find(str(first.root), "a third one").id


def test_a_directory_that_is_moved_stays_the_owner(swarm: FakeSwarm, first: Plane, tmp_path: Path) -> None:
    first.root.rename(tmp_path / "moved")
    moved = Plane(swarm, tmp_path / "moved")
    assert moved.ownership.confirmed, "known from before: it need not wait for the Swarm's answer"
    assert moved.instance() == "store-a"


def test_who_adopts_owns_what_runs_and_the_other_stops(swarm: FakeSwarm, first: Plane, tmp_path: Path) -> None:
    second = Plane(swarm, tmp_path / "b" / "swarm", "store-b")
    seen = second.ownership.mark()
    assert seen is not None
    second.ownership.adopt(seen)
    assert second.instance() == "store-a", "services keep the label they have"
    with pytest.raises(NotOurs, match=f"{tmp_path}/b"):
        first.instance()
    assert not first.ownership.confirmed
    with pytest.raises(BackendError, match="has changed meanwhile"):
        first.ownership.adopt(seen)
    first.ownership.adopt(first.ownership.mark())
    assert first.instance() == "store-a"


def test_an_unmarked_swarm_is_adopted_by_one(swarm: FakeSwarm, tmp_path: Path) -> None:
    swarm.run("default.old.uid-a1-r0", owner.UNNAMED)
    planes = [Plane(swarm, tmp_path / store / "swarm", store) for store in ("store-a", "store-b")]
    planes[0].ownership.adopt(None)
    with pytest.raises(BackendError, match="has changed meanwhile"):
        planes[1].ownership.adopt(None)
    assert planes[0].instance() == owner.UNNAMED


def test_a_mark_that_somebody_removed_is_made_again(swarm: FakeSwarm, first: Plane) -> None:
    swarm.configs.clear()
    assert first.instance() == "store-a"
    assert list(swarm.configs) == [owner.NAME]


def test_a_mark_that_somebody_removed_makes_the_swarm_nobodys(swarm: FakeSwarm, tmp_path: Path) -> None:
    """Not while it is used: the owner may be down."""
    store = str(uuid.uuid4())
    swarm.run("default.job.uid-a1-r0", store)
    swarm.run("default.other.uid-a1-r0", "blue")
    other = Plane(swarm, tmp_path / "b" / "swarm", "store-b")
    with pytest.raises(NotOurs, match=r"not this one: default\.job\.uid-a1-r0$"):
        other.instance()
    assert Plane(swarm, tmp_path / "a" / "swarm", store, records="default.job.uid-a1-r0").instance() == store


def test_those_that_share_a_swarm_have_a_mark_each(swarm: FakeSwarm, first: Plane, tmp_path: Path) -> None:
    named = Plane(swarm, tmp_path / "b" / "swarm", "store-b", named="blue")
    assert named.instance() == "blue"
    with pytest.raises(NotOurs, match="the store store-b"):
        Plane(swarm, tmp_path / "c" / "swarm", "store-c", named="blue").instance()
    assert first.instance() == "store-a"


@pytest.mark.parametrize("given", ["a b", "-a", "x" * 51, "a\nb"])
def test_a_name_that_a_mark_cannot_have_is_refused(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_INSTANCE", given)
    with pytest.raises(UsageError, match="SWARM_INSTANCE is"):
        named_swarm.reader(tmp_path)
