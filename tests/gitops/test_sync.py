"""The plan of a sync, whatever was committed, edited, deleted and made by others before."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cumulus.admission import door
from cumulus.clock import FakeClock
from cumulus.gitops.desired import Desired, digest
from cumulus.gitops.sync import RevisionFacts, SyncPlan, item_key, make_plan
from cumulus.lib import versions
from cumulus.manifest import load_text
from cumulus.resources.key import Document, Key
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.source import DirectorySource, Source, SourceSpec
from cumulus.store.base import Query
from cumulus.store.memory import MemoryStore
from cumulus.store.rules import new_uid
from tests.gitops.cluster import job

NAMES = "abcd"


def wanted(jobs: dict[str, int]) -> Desired:
    """Jobs by name, each with the command and the priority that its number says."""
    made = [load_text(job(n, command=f"{v % 2}.py", priority=v // 2, suspend="true"))[0] for n, v in jobs.items()]
    return Desired({m.key: m for m in made}, {m.key: digest(m) for m in made})


class Bench:
    """A store and one Source, whose plans are carried out."""

    def __init__(self, **spec: Any) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock, admission=door.check)
        self.source = Source(
            metadata=ObjectMeta(name="s", namespace="default", uid=new_uid()),
            spec=SourceSpec(directory=DirectorySource(path="/x"), **spec),
        )

    def stored(self, key: Key) -> Document | None:
        return self.jobs().get(key.name)

    def jobs(self) -> dict[str, Document]:
        return {item["metadata"]["name"]: item for item in self.store.list(Query("GPUJob")).items}

    def plan(self, jobs: dict[str, int], **facts: Any) -> SyncPlan:
        return make_plan(
            self.source,
            wanted(jobs),
            RevisionFacts(str(sorted(jobs.items())), **facts),
            self.stored,
            now=self.clock.now(),
        )

    def do(self, plan: SyncPlan) -> None:
        if plan.steps:
            self.store.transact([step.write for step in plan.steps])
        status = self.source.status.model_copy(update={"inventory": plan.inventory})
        self.source = self.source.replace(status=status)

    def approve(self, hash: str) -> None:
        self.source = self.source.replace(spec=self.source.spec.model_copy(update={"approve": hash}))


COMMITS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5), max_size=4)
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), COMMITS),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(st.just("replace"), st.sampled_from(NAMES)),
        st.tuples(st.just("edit"), st.sampled_from(NAMES)),
        st.tuples(st.just("keep"), st.sampled_from(NAMES)),
        st.tuples(st.just("approve"), st.none()),
    ),
    max_size=12,
)  # fmt: skip


@given(DEEDS, st.sampled_from(["Never", "Confirm", "Auto"]), st.integers(0, 3), st.booleans())
def test_whatever_happens(deeds: list[tuple[str, Any]], prune: str, count: int, rewritten: bool) -> None:
    bench = Bench(prune=prune, prune_limit={"count": count})
    ours: set[str] = set()
    commit: dict[str, int] = {}
    for deed, what in deeds:
        jobs = bench.jobs()
        if deed == "commit":
            commit = what
        elif deed == "approve":
            pending = bench.plan(commit, rewritten=rewritten).pending
            bench.approve(pending.hash if pending is not None else "none")
        elif what in jobs and deed == "delete":
            bench.store.delete(Key("GPUJob", "default", what))
        elif what in jobs and deed == "replace":
            bench.store.delete(Key("GPUJob", "default", what))
            bench.store.create(load_text(job(what, suspend="true"))[0].resource.to_json())
        elif what in jobs and deed == "edit":
            bench.store.update({**jobs[what], "spec": {**jobs[what]["spec"], "priority": 77}})
        elif what in jobs and deed == "keep":
            metadata = {**jobs[what]["metadata"], "annotations": {"cumulus.dev/keep": "true"}}
            bench.store.update({**jobs[what], "metadata": metadata})
        before = bench.jobs()
        plan = bench.plan(commit, rewritten=rewritten)
        for step in plan.steps:
            if step.action not in ("delete", "recreate"):
                continue
            document = before[step.key.name]
            # Only what it made, that very object, and nothing that is marked.
            assert document["metadata"]["uid"] in ours
            assert step.write.uid == document["metadata"]["uid"]
            if step.action == "delete":
                assert prune != "Never"
                assert step.key.name not in commit
                assert (document["metadata"].get("annotations") or {}).get("cumulus.dev/keep") != "true"
            asked = prune == "Confirm" or rewritten or not commit or plan.count("delete") > count
            if asked and plan.count("delete"):
                assert plan.approved == bench.source.spec.approve
        if plan.pending is not None or plan.problems:
            assert plan.steps == ()
            assert plan.inventory == bench.source.status.inventory
        elif prune == "Never":
            assert not plan.count("delete")
        bench.do(plan)
        after = bench.jobs()
        for item in bench.source.status.inventory:
            if (document := after.get(item_key(item).name)) is not None and not item.uid:
                ours.add(document["metadata"]["uid"])
        ours |= {item.uid for item in bench.source.status.inventory if item.uid}
        # Once more comes to rest: at most the successors of what was made anew.
        bench.do(again) if (again := bench.plan(commit, rewritten=rewritten)).steps else None
        for item in bench.source.status.inventory:
            if (document := bench.jobs().get(item_key(item).name)) is not None and not item.uid:
                ours.add(document["metadata"]["uid"])
        rest = bench.plan(commit, rewritten=rewritten)
        assert rest.steps == () or rest.approved
        if not (rest.problems or rest.pending):
            for key, manifest in wanted(commit).manifests.items():
                held = next(item for item in rest.inventory if item_key(item) == key)
                if held.state == "":
                    assert bench.jobs()[key.name]["spec"]["priority"] == manifest.resource.to_json()["spec"]["priority"]
    bench.store.close()


def test_an_approved_sync_says_what_it_does_not_prune() -> None:
    bench = Bench(prune="Never")
    bench.do(bench.plan({"a": 0, "b": 0}))
    asked = bench.plan({"a": 1}, rewritten=True)
    assert asked.pending is not None
    bench.approve(asked.pending.hash)
    plan = bench.plan({"a": 1}, rewritten=True)
    assert (plan.approved, [key.name for key in plan.unpruned]) == (asked.pending.hash, ["b"])


def test_the_hash_names_what_would_be_done_and_nothing_else() -> None:
    bench = Bench(prune="Confirm")
    bench.do(bench.plan({"a": 0, "b": 0}))
    first = bench.plan({"a": 0}).pending
    bench.clock.advance(3600)
    assert first is not None
    assert bench.plan({"a": 0}).pending == first
    others = [bench.plan({"a": 1}).pending, bench.plan({}).pending, bench.plan({"a": 0, "c": 0}).pending]
    assert len({first.hash, *(other.hash for other in others if other is not None)}) == 4


def test_ranges_of_versions() -> None:
    tags = ["v1.0.0", "v1.2.3", "1.10.1", "v2.0.0-rc.1", "v2.0.0", "release-3", "v3.1", "v0.4.2", "v0.5.0"]
    for wanted_range, found in {
        "^1.2": "1.10.1", "~1.2.0": "v1.2.3", "1.x": "1.10.1", ">=1.0 <2.0": "1.10.1", ">=2": "v3.1", "*": "v3.1",
        "^0.4": "v0.4.2", "=2.0.0": "v2.0.0", "<=1.2": "v1.2.3", ">1.10.1, <3": "v2.0.0", "^9 || ~1.0": "v1.0.0",
        "<2.0.0": "1.10.1", "^5": None, "=2.0.0-rc.1": "v2.0.0-rc.1", "<=2.0.0-rc.1": "v2.0.0-rc.1",
        "1.x.3": "1.10.1", ">1.10.1-rc.1 <1.11": "1.10.1",
    }.items():  # fmt: skip
        assert versions.highest(tags, wanted_range) == found, wanted_range
    built = ["1.0.0-20261129123456", "1.0.0-alpha"]
    assert versions.highest(built, "=1.0.0-alpha || =1.0.0-20261129123456") == "1.0.0-alpha"
