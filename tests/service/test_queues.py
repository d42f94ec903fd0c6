"""To which queue a job is submitted, who may, what the queue's rules refuse, and what everybody sees of the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cumulus.errors import Forbidden, InvalidObject, NotFound
from cumulus.manifest import InvalidManifest, load_text
from cumulus.resources.key import API_VERSION, Key
from cumulus.resources.submitter import QUEUE
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from cumulus.stores import empty_store
from tests.documents import job, node, partition
from tests.service.test_access import binding

ADMIN = Identity("root", 0)
ANN = Identity("ann", None, ("lab", "vision"))
BOB = Identity("bob", None)


def queue(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "Queue", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Ann and Bob may make containers in team; there are four queues."""
    store: MemoryStore = empty_store()  # type: ignore[assignment]
    for name in ("ann", "bob"):
        store.create(binding("user", "User", name, "team", name))
    made = Service(lambda: store, tmp_path)
    for each in (
        queue("default", highestPriority=10), queue("vision", submitters={"groups": ["vision"]}, maxDuration="2h"),
        queue("anns", submitters={"users": ["ann"]}, parent="vision"), queue("teams", submitters={"namespaces": ["x"]}),
    ):  # fmt: skip
        made.objects.create(ADMIN, each)
    return made


def submit(service: Service, who: Identity, name: str = "j", **spec: Any) -> str:
    """The queue that it came to."""
    document = job(name, namespace="team", image="busybox", **spec)
    # What a user writes there says nothing.
    document["metadata"]["annotations"] = {QUEUE: "forged"}
    if who.uid is None:
        who = who._replace(uid=1001 + len(who.name) + ord(who.name[0]))
    return str(service.objects.create(who, document)["metadata"]["annotations"][QUEUE])


def test_a_job_that_names_no_queue_gets_the_one_of_its_user(service: Service) -> None:
    assert submit(service, ANN) == "anns"
    assert submit(service, BOB, "of-bob") == "default"
    service.objects.delete(ADMIN, Key("Queue", "", "anns"))
    assert submit(service, ANN, "k") == "vision"
    assert submit(service, BOB._replace(groups=("vision",)), "l", queue="default") == "default"


def test_who_is_not_listed_may_not_submit(service: Service) -> None:
    with pytest.raises(Forbidden) as caught:
        submit(service, BOB, queue="vision")
    assert caught.value.hint == "the queue vision does not list bob among its submitters"
    with pytest.raises(InvalidObject, match=r"spec\.queue: there is no queue nope; the queues are anns, default"):
        submit(service, BOB, queue="nope")


def test_the_rules_of_the_queue_hold_also_later(service: Service) -> None:
    with pytest.raises(InvalidObject, match=r"spec\.priority: is more than 10"):
        submit(service, BOB, priority=11)
    submit(service, BOB, priority=10)
    bob = BOB._replace(uid=1001 + 3 + ord("b"))
    with pytest.raises(InvalidObject, match=r"spec\.priority: is more than 10"):
        service.objects.patch(bob, Key("GPUJob", "team", "j"), {"spec": {"priority": 11}})
    with pytest.raises(InvalidObject, match=r"spec\.gpu\.duration: is more than 2h, the longest"):
        submit(service, ANN, "long", queue="vision", gpu={"duration": "3h"})
    with pytest.raises(InvalidObject, match="cannot change"):
        service.objects.set_annotations(bob, Key("GPUJob", "team", "j"), {QUEUE: "vision"}, overwrite=True)


@pytest.mark.parametrize("kind", ["GPUJobArray", "GPUCronJob"])
def test_what_makes_jobs_is_told_at_once_what_no_queue_would_take(service: Service, kind: str) -> None:
    """Else it is accepted, and none of its jobs is ever made."""

    def make(name: str, **spec: Any) -> dict[str, Any]:
        own = {"indexes": "3"} if kind == "GPUJobArray" else {"schedule": "0 3 * * *"}
        template = {"spec": job("j", namespace="team", image="busybox", **spec)["spec"]}
        made = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": "team"}}
        return service.objects.create(BOB._replace(uid=1001), made | {"spec": own | {"jobTemplate": template}})

    for spec, words in (
        ({"queue": "nope"}, r"spec\.jobTemplate\.spec\.queue: there is no queue nope; the queues are anns"),
        ({"priority": 11}, r"spec\.jobTemplate\.spec\.priority: is more than 10"),
    ):
        with pytest.raises(InvalidObject, match=words):
            make("refused", **spec)
    with pytest.raises(Forbidden) as caught:
        make("refused", queue="vision")
    assert caught.value.hint == "the queue vision does not list bob among its submitters"
    make("taken", priority=10)
    if kind == "GPUCronJob":
        key = Key(kind, "team", "taken")
        change = {"spec": {"jobTemplate": {"spec": {"queue": "nope"}}}}
        with pytest.raises(InvalidObject, match=r"spec\.jobTemplate\.spec\.queue: there is no queue nope"):
            service.objects.patch(BOB._replace(uid=1001), key, change)
        service.objects.delete(ADMIN, Key("Queue", "", "default"))
        service.objects.patch(BOB._replace(uid=1001), key, {"spec": {"suspend": True}})


FILE = """\
apiVersion: cumulus.dev/v1alpha1
kind: Queue
metadata: {name: new}
spec: {highestPriority: 10}
---
apiVersion: cumulus.dev/v1alpha1
kind: GPUJob
metadata: {name: a, namespace: team}
spec: {command: ["true"], image: busybox, queue: NAME, gpu: {memory: 10%, duration: 1m}}
"""


def test_a_queue_and_its_jobs_come_in_one_file(service: Service) -> None:
    with pytest.raises(InvalidManifest, match=r"lab\.yaml:9:\d+: spec\.queue: there is no queue knew; the queues are"):
        service.objects.apply(ADMIN, load_text(FILE.replace("NAME", "knew"), name="lab.yaml"))
    with pytest.raises(NotFound):
        service.store.get(Key("Queue", "", "new"))
    made = load_text(FILE.replace("NAME", "new"), name="lab.yaml")
    # Who may make no queue makes none that way.
    with pytest.raises(Forbidden):
        service.objects.apply(BOB._replace(uid=1001), made)
    service.objects.apply(ADMIN, made)
    assert service.store.get(Key("GPUJob", "team", "a"))["metadata"]["annotations"][QUEUE] == "new"


def test_the_strictest_of_a_queue_and_those_above_it_counts(service: Service) -> None:
    service.objects.create(ADMIN, queue("lab", maxDuration="4h", highestPriority=20))
    service.objects.create(ADMIN, queue("below", parent="lab", maxDuration="9h", highestPriority=30))
    for spec, words in (
        ({"gpu": {"duration": "5h"}}, r"spec\.gpu\.duration: is more than 4h, the longest that the queue lab allows"),
        ({"priority": 21}, r"spec\.priority: is more than 20, the highest priority of the queue lab"),
    ):
        with pytest.raises(InvalidObject, match=words):
            submit(service, BOB, queue="below", **spec)
    submit(service, BOB, queue="below", priority=20, gpu={"duration": "4h"})


def test_queues_are_changed_by_admins_and_form_a_tree(service: Service) -> None:
    with pytest.raises(Forbidden):
        service.objects.create(ANN, queue("mine"))
    with pytest.raises(InvalidObject, match=r"spec\.parent: there is no queue nope"):
        service.objects.create(ADMIN, queue("new", parent="nope"))
    with pytest.raises(InvalidObject, match="makes vision a part of itself: vision in anns in vision"):
        service.objects.patch(ADMIN, Key("Queue", "", "vision"), {"spec": {"parent": "anns"}})


def test_everybody_sees_who_waits_and_nothing_more(service: Service) -> None:
    service.store.create(node("n"))
    secret = partition("p", memory="30%")
    service.store.create(secret)
    line = service.explanations.line(Identity("nobody", 4711))
    (one,) = line.waiting
    assert (one.place, one.queue, one.name, one.share) == (1, "default", "default/p", "30%")
    assert service.explanations.line(ANN, "anns").waiting == ()
    with pytest.raises(NotFound, match="there is no queue nope"):
        service.explanations.line(ANN, "nope")
