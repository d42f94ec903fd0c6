"""Calls in containers, on a real Swarm: whoever they run as, on any node."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from typing import Any

import cloudpickle
import pytest

from cumulus.backends.base import Workload, WorkloadState
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.calls.outcome import Outcome
from cumulus.calls.session import SessionEnded
from cumulus.errors import BackendError
from cumulus.infrastructure import LocalInfrastructure
from tests.runner.calls import HERE, connected, payload_of
from tests.swarm.bed import SwarmBed
from tests.swarm.control import Control, job

pytestmark = pytest.mark.docker
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ALICE: dict[str, Any] = {"submitter": "alice", "submitter_uid": 1000, "submitter_admin": False}


def value(bed: SwarmBed, work: Workload) -> Any:
    left = bed.backend.result(work.job_uid, work.attempt, work.replica)
    assert left is not None
    assert left.outcome.result, left.outcome
    return pickle.loads(b"".join(left.content))


def left_on(bed: SwarmBed, node: str) -> list[str]:
    """What of calls is on the node, also of tests before."""
    place = bed.lab.nodes[node].docker("info", "--format", "{{.DockerRootDir}}") + "/cumulus-calls"
    return bed.lab.nodes[node].shell(f"ls {place}")[1].split()


def test_a_call_comes_to_its_node_and_its_result_back(bed: SwarmBed) -> None:
    def large(text: str) -> tuple[int, bytes]:
        print(text)
        return os.getuid(), b"x" * (9 * 2**20 + 1)

    before = set(left_on(bed, "worker2"))
    work = bed.calling(large, "hello", node="worker2")
    bed.backend.start(work)
    bed.backend.start(work)
    end = bed.finish(work)
    assert (end.state, end.message) == (WorkloadState.SUCCEEDED, "")
    assert bed.log(work) == b"hello\n"
    assert value(bed, work) == (0, b"x" * (9 * 2**20 + 1))
    assert len(set(left_on(bed, "worker2")) - before) == 1
    bed.backend.remove(work.name)
    assert set(left_on(bed, "worker2")) <= before


def test_a_confined_container_runs_its_call_as_its_submitter(bed: SwarmBed) -> None:
    bed.options["mounts"] = ["/usr", "/lib", "/lib64"]
    bed.reopen()

    def look() -> tuple[int, list[str]]:
        return os.getuid(), sorted(os.listdir("/run/cumulus/call"))

    bed.backend.start(work := bed.calling(look, **ALICE))
    assert bed.finish(work).message == ""
    uid, files = value(bed, work)
    assert uid == 1000
    assert {"call.json", "payload", "runner.pyz"} <= set(files)


def test_an_image_without_that_python_says_so(bed: SwarmBed) -> None:
    bed.backend.start(work := bed.calling(len, "", python="3.99"))
    assert bed.finish(work).exit_code == 127
    left = bed.backend.result(work.job_uid, 1, 0)
    assert left is not None
    assert left.outcome.text == "there is no Python 3.99 in this image, which made the call; use an image that has it"


def test_a_link_to_a_file_of_the_nodes_is_not_taken_for_a_result(bed: SwarmBed) -> None:
    def forge() -> None:
        for name in ("result", "outcome.json"):
            os.symlink("/etc/hostname", f"/run/cumulus/call/{name}")
        os._exit(0)

    bed.backend.start(work := bed.calling(forge))
    bed.finish(work)
    assert bed.backend.result(work.job_uid, 1, 0) is None


def test_a_node_that_cannot_be_reached_gets_no_call(bed: SwarmBed) -> None:
    bed.options["node_engine"] = lambda node: None
    bed.reopen()
    with pytest.raises(BackendError, match=r"worker1 has no SSH address, over which calls come to a node"):
        bed.backend.start(bed.calling(len, ""))
    assert bed.services() == []


def test_a_session_in_a_container_answers_through_its_node(bed: SwarmBed) -> None:
    def begin() -> None:
        import builtins

        builtins.kept = []  # type: ignore[attr-defined]

    def keep(value: int) -> tuple[int, list[int]]:
        import builtins

        builtins.kept.append(value)  # type: ignore[attr-defined]
        return os.getpid(), builtins.kept  # type: ignore[attr-defined]

    bed.options["mounts"] = ["/usr", "/lib", "/lib64"]
    bed.reopen()
    bed.backend.start(work := bed.calling(begin, session=True, **ALICE))
    session = connected(lambda: bed.backend.reach(work.job_uid, 1, 0).session())
    pids = set()
    for number in (1, 2):
        payload = payload_of(keep, number)
        outcome, _, content = session.call(len(payload), [payload])
        pid, kept = pickle.loads(b"".join(content))
        pids.add(pid)
        assert (outcome.outcome, kept) == ("Returned", [1, 2][:number])
    assert len(pids) == 1
    other = bed.backend.reach(work.job_uid, 1, 0).session()
    session.close()
    other.close_session()
    other.close()
    assert bed.finish(work).state is WorkloadState.SUCCEEDED
    with pytest.raises(SessionEnded):
        bed.backend.reach(work.job_uid, 1, 0).session()


@pytest.mark.timeout(1800)
def test_calls_and_sessions_through_the_daemon_and_ssh(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = DirectoryBlobStore(control.home / "blobs")

    def submit(name: str, payload: bytes, **call: Any) -> None:
        digest = hashlib.sha256(payload).hexdigest()
        blobs.write("0:root", digest, len(payload), [payload])
        made = job(
            name, "", mounts=[{"source": at, "target": at, "readOnly": True} for at in ("/usr", "/lib", "/lib64")]
        )
        del made["spec"]["command"]
        made["spec"]["call"] = {"payload": digest, "python": HERE, **call}
        control.apply(made)

    waits, ids = payload_of(bytes, 3), payload_of(os.getpid)
    submit("once", waits)
    submit("serves", ids, session=True)
    control.ok("wait", "gpujob/once", "--for=condition=Succeeded", "--timeout=200s")
    found = Outcome.of_status(control.get("job", "once")["status"]["call"])
    assert found is not None
    assert pickle.loads(b"".join(blobs.open("0:root", found.result))) == bytes(3)
    control.ok("wait", "gpujob/serves", "--for=condition=Running", "--timeout=200s")
    for name in ("SWARM_MANAGER", "SWARM_INSTANCE", "SSH_KEY_PATH"):
        monkeypatch.setenv(name, control.env[name])
    serves = control.get("job", "serves")
    node = control.get("node", serves["status"]["attempts"][-1]["node"])
    session = connected(lambda: LocalInfrastructure(control.home).session(serves, node))
    _, _, content = session.call(len(ids), [ids])
    assert pickle.loads(b"".join(content)) > 0
    session.close_session()
    session.close()
    control.ok("wait", "gpujob/serves", "--for=condition=Succeeded", "--timeout=200s")
