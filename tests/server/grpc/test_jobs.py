"""Jobs over gRPC: once each, whatever is lost on the way, and told as they become."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import timedelta
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from cumulus.resources.key import Document, Key
from cumulus.resources.query import Query
from cumulus.rpc import orchestrator_pb2 as pb
from tests.documents import NOW
from tests.server.grpc.conftest import ANN, BOB, ROOT, Served, code_of, error_of
from tests.waiting import eventually


def job(name: str = "train", **spec: Any) -> Document:
    given = {"command": ["true"], "gpu": {"memory": "50%", "duration": "1h"}, **spec}
    metadata = {"name": name, "namespace": "team"}
    return {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": metadata, "spec": given}


def generated(prefix: str = "call-", **spec: Any) -> Document:
    made = job(**spec)
    return {**made, "metadata": {"generateName": prefix, "namespace": "team"}}


def ref(name: str = "train", uid: str = "") -> pb.JobRef:
    return pb.JobRef(namespace="team", name=name, uid=uid)


def jobs(served: Served) -> list[Document]:
    return list(served.store.list(Query("GPUJob")).items)


def finish(served: Served, name: str = "train", phase: str = "Succeeded") -> None:
    found = served.store.get(Key("GPUJob", "team", name))
    served.store.update_status({**found, "status": {**(found.get("status") or {}), "phase": phase}})


def test_twenty_lost_answers_and_restarts_make_one_job(served: Served) -> None:
    uids = set()
    for lost in range(20):
        uids.add(served.by(ANN).submit(generated())["metadata"]["uid"])
        if lost in (5, 12):
            served.stop()
            served.start()
    assert len(uids) == len(jobs(served)) == 1
    assert jobs(served)[0]["metadata"]["name"].startswith("call-")
    assert served.by(ANN).submit(generated(), "another")["metadata"]["uid"] not in uids


def test_answers_that_nobody_waited_for_make_one_job(served: Served) -> None:
    caller, request = served.by(ANN), pb.SubmitRequest(idempotency_key="k", object=json.dumps(generated()).encode())
    for lost in range(20):
        call = caller.Submit.future(request)  # type: ignore[attr-defined]
        time.sleep(lost * 0.0003)
        call.cancel()
    made = json.loads(caller.Submit(request).object)
    assert [each["metadata"]["uid"] for each in jobs(served)] == [made["metadata"]["uid"]]


def test_calls_with_one_key_at_the_same_time_make_one_job(served: Served) -> None:
    caller, found = served.by(ANN), []
    threads = [
        threading.Thread(target=lambda: found.append(caller.submit(generated())["metadata"]["uid"])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_server_that_died_between_job_and_note_finds_the_job(served: Served) -> None:
    made = served.by(ANN).submit(generated())
    for note in (served.home / "api" / "submissions").glob("*/*.json"):
        note.write_text(json.dumps({**json.loads(note.read_text()), "uid": ""}))
    assert served.by(ANN).submit(generated())["metadata"]["uid"] == made["metadata"]["uid"]
    for note in (served.home / "api" / "submissions").glob("*/*.json"):
        note.unlink()
    assert served.by(ANN).submit(generated())["metadata"]["uid"] == made["metadata"]["uid"]
    assert len(jobs(served)) == 1


def test_a_job_that_is_gone_is_not_made_again(served: Served) -> None:
    made = served.by(ANN).submit(job())
    served.store.delete(Key("GPUJob", "team", "train"))
    again = served.by(ANN).Submit(pb.SubmitRequest(idempotency_key="once", object=json.dumps(job()).encode()))
    assert again.deleted
    assert json.loads(again.object)["metadata"]["uid"] == made["metadata"]["uid"]
    assert not jobs(served)


def test_a_key_is_for_one_job_of_one_user(served: Served) -> None:
    served.by(ANN).submit(generated())
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).submit(generated(replicas=2))
    assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT
    assert "used for another job" in error_of(refused.value).message
    served.by(BOB).submit(generated())
    assert len(jobs(served)) == 2
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).submit(generated(), "")
    assert "idempotency key" in error_of(refused.value).message


def test_what_was_refused_may_be_put_right_with_the_same_key(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).submit(job(replicas=0))
    assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT
    assert [problem.field for problem in error_of(refused.value).problems] == ["spec.replicas"]
    served.by(ANN).submit(job())
    with pytest.raises(grpc.RpcError) as refused:
        served.by(BOB).submit(job(), "bobs")
    assert code_of(refused.value) is StatusCode.ALREADY_EXISTS


def test_old_keys_are_forgotten(served: Served) -> None:
    served.by(ANN).submit(generated())
    (note,) = (served.home / "api" / "submissions").glob("*/*")
    for hours, kept in ((47, True), (49, False)):
        then = (NOW - timedelta(hours=hours)).timestamp()
        os.utime(note, (then, then))
        served.service.submissions.sweep()
        assert note.exists() == kept
    assert not note.parent.exists()


@pytest.mark.parametrize("given", [b"", b"[]", b"{", b'{"kind": "GPUNode"}', b'{"kind": "GPUJob", "metadata": 3}'])
def test_what_is_no_job_is_refused(served: Served, given: bytes) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).Submit(pb.SubmitRequest(idempotency_key="x", object=given))
    assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT


def test_get_is_of_that_very_job(served: Served) -> None:
    made = served.by(ANN).submit(job())
    found = served.by(ANN).Get(pb.GetRequest(job=ref(uid=made["metadata"]["uid"])))
    assert json.loads(found.object)["spec"]["command"] == ["true"]
    for other in (ref(uid="another"), ref("another")):
        with pytest.raises(grpc.RpcError) as refused:
            served.by(ANN).Get(pb.GetRequest(job=other))
        assert code_of(refused.value) is StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).Get(pb.GetRequest())
    assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT


def test_a_list_of_all_is_of_all_that_they_may_see(served: Served) -> None:
    for number in range(5):
        served.by(ANN).submit(job(f"j{number}"), str(number))
    served.by(ROOT).submit({**job("hidden"), "metadata": {"name": "hidden", "namespace": "other"}})
    assert len(served.by(ROOT).List(pb.ListRequest()).jobs) == 6
    names, token = [], ""
    while True:
        answer = served.by(ANN).List(pb.ListRequest(limit=2, **{"continue": token}))
        names += [json.loads(each.object)["metadata"]["name"] for each in answer.jobs]
        if not (token := getattr(answer, "continue")):
            break
    assert names == [f"j{number}" for number in range(5)]
    for nonsense in ("nonsense", "NQ==", "bnVsbA==", "WzFd"):
        with pytest.raises(grpc.RpcError) as refused:
            served.by(ANN).List(pb.ListRequest(**{"continue": nonsense}))
        assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT, nonsense


def test_a_list_of_large_jobs_comes_in_parts(served: Served) -> None:
    for number in range(60):
        document = job(f"j{number:02}", env=[{"name": "X", "value": "x" * 100_000}])
        served.store.create(document)
    answers, token = [], ""
    while True:
        answers.append(served.by(ANN).List(pb.ListRequest(namespace="team", **{"continue": token})))
        if not (token := getattr(answers[-1], "continue")):
            break
    assert all(answer.ByteSize() < 4 * 2**20 for answer in answers)
    names = [json.loads(each.object)["metadata"]["name"] for answer in answers for each in answer.jobs]
    assert names == [f"j{number:02}" for number in range(60)]


def test_a_watch_tells_of_each_change_until_it_is_final(served: Served) -> None:
    served.by(ANN).submit(job())
    told = served.by(ANN).Watch(pb.WatchRequest(job=ref()))
    assert json.loads(next(told).object)["status"]["phase"] == "Pending"
    finish(served, phase="Running")
    assert json.loads(next(told).object)["status"]["phase"] == "Running"
    finish(served)
    assert [json.loads(each.object)["status"]["phase"] for each in told] == ["Succeeded"]
    assert len(list(served.by(ANN).Watch(pb.WatchRequest(job=ref())))) == 1


def test_a_watch_tells_that_the_job_is_gone(served: Served) -> None:
    served.by(ANN).submit(job())
    told = served.by(ANN).Watch(pb.WatchRequest(job=ref()))
    next(told)
    served.store.delete(Key("GPUJob", "team", "train"))
    assert [each.deleted for each in told] == [True]
    with pytest.raises(grpc.RpcError) as refused:
        list(served.by(ANN).Watch(pb.WatchRequest(job=ref())))
    assert code_of(refused.value) is StatusCode.NOT_FOUND


def test_a_watch_that_the_server_ends_may_be_asked_for_again(served: Served) -> None:
    served.by(ANN).submit(job())
    told = served.by(ANN).Watch(pb.WatchRequest(job=ref()))
    next(told)
    served.server.api.bridge.close()
    with pytest.raises(grpc.RpcError) as ended:
        next(told)
    assert code_of(ended.value) is StatusCode.UNAVAILABLE


def test_cancel_deletes_it(served: Served) -> None:
    made = served.by(ANN).submit(job())
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).Cancel(pb.CancelRequest(job=ref(uid="another")))
    assert code_of(refused.value) in (StatusCode.NOT_FOUND, StatusCode.ABORTED)
    gone = served.by(ANN).Cancel(pb.CancelRequest(job=ref(uid=made["metadata"]["uid"])))
    assert json.loads(gone.object)["metadata"]["uid"] == made["metadata"]["uid"]
    assert not jobs(served)


CALL = {"payload": "0" * 64, "python": "3.11", "attended": "30s"}


@pytest.fixture
def attended(served: Served) -> Document:
    document = job(call=CALL)
    del document["spec"]["command"]
    document["metadata"]["annotations"] = {"cumulus.dev/submitter": "ann", "cumulus.dev/submitter-uid": "1001"}
    made = served.store.create(document)
    eventually(lambda: served.server.attendance.is_watched(made["metadata"]["uid"]), what="it is watched")
    return made


def wait(served: Served, seconds: int) -> None:
    for _ in range(seconds):
        served.server.now += 1.0
        served.server.run(served.server.attendance.look())


def test_a_call_whose_client_is_silent_is_cancelled(served: Served, attended: Document) -> None:
    assert 0 < served.by(ANN).Attend(pb.AttendRequest(job=ref())).next <= 15
    wait(served, 29)
    served.by(ANN).Attend(pb.AttendRequest(job=ref()))
    wait(served, 29)
    assert jobs(served)
    wait(served, 2)
    assert not jobs(served)


def test_time_in_which_the_server_was_stopped_does_not_count(served: Served, attended: Document) -> None:
    served.server.now += 1000.0
    wait(served, 30)
    assert jobs(served)
    wait(served, 2)
    assert not jobs(served)


def test_after_a_restart_the_time_starts_anew(served: Served, attended: Document) -> None:
    wait(served, 29)
    served.stop()
    served.start()
    eventually(lambda: served.server.attendance.is_watched(attended["metadata"]["uid"]), what="it is watched")
    wait(served, 29)
    assert jobs(served)
    wait(served, 2)
    assert not jobs(served)


def test_only_who_submitted_a_call_attends_it(served: Served, attended: Document) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.by(BOB).Attend(pb.AttendRequest(job=ref()))
    assert code_of(refused.value) is StatusCode.PERMISSION_DENIED
