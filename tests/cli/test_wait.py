from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cumulus.cli.verbs.wait import follow
from cumulus.client.embedded import EmbeddedClient
from cumulus.clock import SystemClock, timestamp
from cumulus.daemon_lock import DaemonLock
from cumulus.errors import UsageError
from cumulus.lib import process_identity, unix_socket
from cumulus.resources.registry import BY_NAME
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.service.wait_conditions import Deleted, HasCondition, HasValue, parse_condition
from cumulus.store.base import Document, Key
from cumulus.store.sqlite import SqliteStore
from tests import command_server
from tests.cli.conftest import Run
from tests.commands import CUMULUS
from tests.documents import active, condition, failed, job, lease, node, partition, running
from tests.waiting import PATIENCE

JOB = Key("GPUJob", "default", "train")


@contextmanager
def waiting(*arguments: str) -> Iterator[Callable[[], tuple[int, str, str]]]:
    """`cumulus wait` in another process; calling gives its exit code and output."""
    command_server.share(Path(os.environ["CUMULUS_HOME"]))
    process = subprocess.Popen([CUMULUS, "wait", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: seen.extend(iter(process.stderr.readline, "")))  # type: ignore[union-attr]
    reader.start()

    def finish() -> tuple[int, str, str]:
        assert process.stdout is not None
        code = process.wait(PATIENCE)
        reader.join()
        return code, process.stdout.read(), "".join(seen)

    try:
        deadline = time.monotonic() + PATIENCE
        while not any("waiting for" in line for line in seen) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield finish
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
        process.stderr.close()


def succeeded(document: Document) -> Document:
    status = {**document["status"], "phase": "Succeeded", "conditions": [condition("Succeeded", True, "Completed")]}
    return {**document, "status": status}


def test_what_is_true_already_needs_no_waiting(store: SqliteStore, run: Run) -> None:
    store.create(succeeded(job("train")))
    done = run("wait", "gpujob/train", "--for=condition=Succeeded", "--timeout=0")
    assert done == (0, "gpujob.cumulus.dev/train condition met\n", "")


def test_it_comes_true_by_another_process(store: SqliteStore) -> None:
    made = store.create(running("train"))
    with waiting("gpujob/train", "--for=condition=Succeeded", "--timeout=150s") as finish:
        store.update_status(succeeded(made))
        code, out, err = finish()
    assert (code, out) == (0, "gpujob.cumulus.dev/train condition met\n")
    assert err == "waiting for gpujob/train: Running (Started)\n"


def test_time_is_up(store: SqliteStore, run: Run, home: Path) -> None:
    store.create(running("train"))
    lock = DaemonLock(home)
    done = run("wait", "job/train", "--for=condition=Succeeded", "--timeout=0.05s")
    lock.close()
    assert done.code == 1
    assert done.err.splitlines()[-1] == "error: timed out: waiting for gpujob/train: Running (Started)"


def test_it_says_that_no_daemon_runs(store: SqliteStore, run: Run, home: Path) -> None:
    store.create(running("train"))
    done = run("wait", "job/train", "--for=condition=Succeeded", "--timeout=0.05s")
    assert f"No daemon runs on {home}" in done.err


@pytest.mark.parametrize(
    ("document", "goal", "said"),
    [
        (failed("train"), "condition=Succeeded", "Failed (Error: attempt 1 ended with exit code 3)"),
        (failed("train"), "condition=Running", "Failed"),
        (failed("train"), "jsonpath={.status.phase}=Succeeded", "Failed"),
        (succeeded(job("train")), "condition=Failed", "Succeeded (Completed)"),
        (partition("train", status={"phase": "Expired"}), "condition=Active", "Expired"),
    ],
)
def test_what_can_not_come_true_any_more_ends_at_once(
    store: SqliteStore, run: Run, document: Document, goal: str, said: str
) -> None:
    store.create(document)
    done = run("wait", f"{document['kind']}/train", f"--for={goal}", "--timeout=1h")
    assert done.code == 1
    assert "can't meet" in done.err
    assert said in done.err


def test_a_job_that_fails_while_it_is_waited_for(store: SqliteStore) -> None:
    made = store.create(running("train"))
    with waiting("gpujob/train", "--for=condition=Succeeded", "--timeout=150s") as finish:
        store.update_status({**made, "status": failed("train")["status"]})
        code, _, err = finish()
    assert code == 1
    assert "can't meet condition=Succeeded any more: Failed (Error" in err


def test_a_job_that_is_deleted_while_it_is_waited_for(store: SqliteStore) -> None:
    store.create(running("train"))
    with waiting("gpujob/train", "--for=condition=Succeeded", "--timeout=150s") as finish:
        store.delete(JOB)
        code, _, err = finish()
    assert code == 1
    assert "any more: it is gone" in err


def test_deletion(store: SqliteStore, run: Run) -> None:
    made = store.create({**job("train"), "metadata": {**job("train")["metadata"], "finalizers": ["a.b/c"]}})
    store.delete(JOB)
    with waiting("gpujob/train", "--for=delete", "--timeout=150s") as finish:
        now = store.get(JOB)
        store.update({**now, "metadata": {**now["metadata"], "finalizers": []}})
        code, out, _ = finish()
    assert (code, out) == (0, "gpujob.cumulus.dev/train deleted\n")
    assert made["metadata"]["uid"]
    assert run("wait", "job/train", "--for=delete").code == 0
    assert run("wait", "jobs", "--all", "--for=delete").code == 0


def test_deletion_is_of_the_object_and_not_of_its_name(store: SqliteStore, capsys: pytest.CaptureFixture[str]) -> None:
    first = store.create(job("train"))
    store.delete(JOB)
    store.create(job("train"))
    client = EmbeddedClient(Service(lambda: store, Path("/nowhere")), Identity("tester", 0))
    follow(client, [JOB], "delete", 0.0, {JOB: first["metadata"]["uid"]})
    assert capsys.readouterr().out == "gpujob.cumulus.dev/train deleted\n"


def test_the_deletion_of_all_is_of_all_that_were_there(store: SqliteStore) -> None:
    store.create(job("train"))
    with waiting("jobs", "--all", "--for=delete", "--timeout=150s") as finish:
        store.create(job("later"))
        store.delete(JOB)
        code, out, _ = finish()
    assert (code, out) == (0, "gpujob.cumulus.dev/train deleted\n")


def test_creation(store: SqliteStore) -> None:
    with waiting("job/train", "--for=create", "--timeout=150s") as finish:
        store.create(job("train"))
        assert finish()[0] == 0


def reported(name: str, *, ready: bool = True, term: int = 1) -> Document:
    """A node as the leader of that term reported it."""
    made = node(name, ready=ready)
    return {**made, "status": {**made["status"], "term": term}}


def leader(*, since: float = 60.0, **more: str) -> Document:
    """The Lease of the daemon of term 1, which renewed it just now."""
    now = SystemClock().now()
    return lease(timestamp(now), acquired=timestamp(now - timedelta(seconds=since)), **more)


@pytest.fixture
def leads(served: None, store: SqliteStore) -> Document:
    """A daemon runs and leads."""
    return store.create(leader())


def test_all_of_a_kind_waits_for_the_first_and_for_each(store: SqliteStore, leads: Document) -> None:
    with waiting("node", "--all", "--for=condition=Ready", "--timeout=150s") as finish:
        store.create(reported("n1"))
        code, out, err = finish()
    assert (code, out) == (0, "gpunode.cumulus.dev/n1 condition met\n")
    assert "there is none yet" in err
    second = store.create(reported("n2", ready=False))
    with waiting("nodes", "--all", "--for=condition=Ready", "--timeout=150s") as finish:
        store.update_status({**second, "status": reported("n2")["status"]})
        assert finish()[1].count("condition met") == 2


def test_what_a_daemon_that_stopped_said_of_a_node_does_not_count(store: SqliteStore, home: Path, run: Run) -> None:
    store.create(reported("n1"))
    store.create(leader(holder=""))
    done = run("wait", "node/n1", "--for=condition=Ready", "--timeout=0")
    assert (done.code, done.out) == (1, "")
    assert "waiting for gpunode/n1: no daemon runs, and the last one left it Ready" in done.err
    assert f"No daemon runs on {home}; things change once `cumulus serve` is started." in done.err
    # That nobody knows how it is needs no daemon.
    gone = store.create(node("n2"))
    store.update_status({**gone, "status": {**gone["status"], "heartbeatTime": "2020-01-01T00:00:00Z"}})
    assert run("wait", "node/n2", "--for=condition=Ready=Unknown", "--timeout=0").code == 0


def test_a_node_counts_once_the_daemon_that_runs_has_reported_it(store: SqliteStore, leads: Document) -> None:
    old = store.create(reported("n1", term=0))
    with waiting("node/n1", "--for=condition=Ready", "--timeout=150s") as finish:
        store.update_status({**old, "status": reported("n1")["status"]})
        code, out, err = finish()
    assert (code, out) == (0, "gpunode.cumulus.dev/n1 condition met\n")
    assert "n1: the daemon that runs has not reported it yet, and the last one left it Ready" in err


def test_a_new_leaders_api_is_waited_for(store: SqliteStore, served: None, home: Path) -> None:
    store.create(leader(since=-60.0))
    store.create(reported("n1"))
    with waiting("node/n1", "--for=condition=Ready", "--timeout=150s") as finish:
        api = unix_socket.listen(str(home / "api.sock"))
        code, _, err = finish()
        api.close()
    assert code == 0
    assert "waiting for gpunode/n1: the daemon that runs is still starting, and what is stored says Ready" in err


def test_a_leader_that_was_killed_leads_no_more(store: SqliteStore, served: None, run: Run) -> None:
    """The next one has its lock already, and takes over in a moment."""
    world, start = process_identity.this_process().rsplit("/", 1)
    store.create(leader(process=f"{world}/{int(start) - 1}"))
    store.create(reported("n1"))
    done = run("wait", "node/n1", "--for=condition=Ready", "--timeout=0")
    assert done.code == 1
    assert "the daemon that runs is still starting" in done.err


def test_a_selector_chooses(store: SqliteStore, run: Run) -> None:
    store.create(running("a", labels={"team": "x"}))
    store.create(failed("b", labels={"team": "y"}))
    assert run("wait", "jobs", "-l", "team=x", "--for=condition=Running", "--timeout=0").code == 0
    assert run("wait", "jobs", "-l", "team=y", "--for=condition=Running", "--timeout=0").code == 1


def test_a_node_that_is_silent_is_not_ready(store: SqliteStore, run: Run, leads: Document) -> None:
    made = store.create(reported("gpu-1"))
    assert run("wait", "node/gpu-1", "--for=condition=Ready", "--timeout=0").code == 0
    store.update_status({**made, "status": {**made["status"], "heartbeatTime": "2020-01-01T00:00:00Z"}})
    done = run("wait", "node/gpu-1", "--for=condition=Ready", "--timeout=0")
    assert done.code == 1
    assert "waiting for gpunode/gpu-1: Unknown (silent for" in done.err


def test_jsonpath(store: SqliteStore, run: Run) -> None:
    store.create(active("p"))
    for goal in ("{.status.phase}=Active", "'{.status.phase}'=Active", ".status.fencingToken=7", "{.status.node}"):
        assert run("wait", "part/p", f"--for=jsonpath={goal}", "--timeout=0").code == 0, goal
    assert run("wait", "part/p", "--for=jsonpath={.status.endedAt}", "--timeout=0").code == 1
    unknown = run("wait", "part/p", "--for=jsonpath={.status.phse}=Active")
    assert unknown.code == 2
    assert "a GPUPartition has no field status.phse; did you mean status.phase?" in unknown.err
    assert "did you mean status.phase?" in run("wait", "parts", "--field-selector=status.phse!=x", "--for=delete").err


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["job/nope", "--for=condition=Running"], 1, "gpujob.cumulus.dev 'nope' not found in namespace default"),
        (["job/nope"], 2, "say what to wait for"),
        (["jobs", "--for=condition=Running"], 2, "name an object, or give --all or a selector"),
        (["job/a", "--all", "--for=delete"], 2, "names cannot be given together with --all"),
        (["job/a", "--for=condition=Succedded"], 2, "a GPUJob has no condition 'Succedded'; did you mean Succeeded?"),
        (["event/a", "--for=condition=X"], 2, "a Event has no conditions"),
        (["job/a", "--for=happiness"], 2, "'happiness' is nothing to wait for"),
        (["job/a", "--for=jsonpath={.a"], 2, "jsonpath"),
        (["job/a", "--for=jsonpath={.a}x"], 2, "after the path"),
        (["job/a", "--for=delete", "--timeout=soon"], 2, "--timeout: 'soon' is not a duration"),
    ],
)
def test_wrong_usage(store: SqliteStore, run: Run, arguments: list[str], code: int, problem: str) -> None:
    done = run("wait", *arguments)
    assert (done.code, done.out) == (code, "")
    assert problem in done.err


def test_the_words_of_a_goal() -> None:
    kind = BY_NAME["GPUJob"]
    assert parse_condition("condition=succeeded", kind) == HasCondition("Succeeded")
    assert parse_condition("condition=Ready=false", BY_NAME["GPUNode"]) == HasCondition("Ready", "false")
    assert isinstance(parse_condition("delete", kind), Deleted)
    found: Any = parse_condition('jsonpath={.status.conditions[?(@.type=="c")].reason}=e', kind)
    assert isinstance(found, HasValue)
    assert found.value == "e"
    with pytest.raises(UsageError):
        parse_condition("condition=", kind)


def test_a_condition_that_is_not_there_is_unknown() -> None:
    now = SystemClock().now()
    assert HasCondition("Running", "Unknown").met(job("x"), now)
    assert not HasCondition("Running", "False").met(job("x"), now)
