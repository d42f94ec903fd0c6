"""Calls as processes: made from blobs, run by the Python that made them, and what they leave."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cumulus.backends.base import EnvVar, Workload, WorkloadState
from cumulus.backends.process.backend import ProcessBackend
from cumulus.calls.outcome import RETURNED, Outcome
from cumulus.calls.session import SessionEnded
from cumulus.environments.document import EnvironmentDocument
from cumulus.errors import BackendError, BackendRefused
from cumulus.runner.build import archive
from tests.backends.process_bed import NODE, ProcessBed, returned
from tests.runner.calls import HERE, connected, payload_of, payload_with_large, zip_of
from tests.unix_users import User

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def value(bed: ProcessBed, work: Workload) -> Any:
    left = bed.backend.result(work.job_uid, work.attempt, work.replica)
    assert left is not None
    assert left.outcome.result, left.outcome
    return pickle.loads(b"".join(left.content))


def say(text: str) -> tuple[str, str]:
    import work

    print(text)
    return work.WORD, os.getcwd()


def test_a_call_runs_where_a_command_would(bed: ProcessBed) -> None:
    bed.backend.start(work := bed.calling(say, "hello", archive=zip_of({"work.py": "WORD = 'of the archive'"})))
    end = bed.finish(work)
    assert (end.state, end.exit_code, end.message) == (WorkloadState.SUCCEEDED, 0, "")
    assert bed.log(work) == b"hello\n"
    assert value(bed, work) == ("of the archive", str(bed.run_directory(work) / "work"))
    place = bed.run_directory(work) / "call"
    # What it was made of is a copy: it is gone.
    assert sorted(os.listdir(place)) == ["outcome.json", "result"]
    assert (place.stat().st_mode & 0o777, (place / "result").stat().st_mode & 0o777) == (0o700, 0o600)
    bed.backend.remove(work.name)
    assert not place.exists()
    [runner] = bed.root.glob("runner-*.pyz")
    assert runner.read_bytes() == archive()


def with_large(bed: ProcessBed, work: Workload, function: Any) -> Workload:
    """The same, but for a call of the function with one large argument."""
    assert work.call is not None
    owner = work.call.owner
    large = bed.blob(owner, pickle.dumps("large"))
    payload = bed.blob(owner, payload_with_large([(large, [0])], function, None))
    return replace(work, call=replace(work.call, payload=payload, arguments=(large,)))


def test_a_large_argument_is_a_blob_of_its_own(bed: ProcessBed) -> None:
    bed.backend.start(work := with_large(bed, bed.calling(str.upper), str.upper))
    assert bed.finish(work).message == ""
    assert value(bed, work) == "LARGE"
    assert sorted(os.listdir(bed.run_directory(work) / "call")) == ["outcome.json", "result"]
    assert work.call is not None
    bed.blobs.delete(work.call.owner, work.call.arguments[0])
    with pytest.raises(BackendRefused, match=r"the call's argument is not there any more"):
        bed.backend.start(replace(work, name=f"{work.name}x", attempt=2))


def test_a_function_that_raises_is_a_failure(bed: ProcessBed) -> None:
    def fail() -> None:
        raise ValueError("no row")

    bed.backend.start(work := bed.calling(fail))
    end = bed.finish(work)
    assert (end.state, end.exit_code, end.reason) == (WorkloadState.FAILED, 1, "Error")
    assert repr(value(bed, work)) == "ValueError('no row')"
    assert b"ValueError: no row" in bed.log(work)


def test_a_python_that_is_not_there_is_told_with_what_to_do(bed: ProcessBed) -> None:
    bed.backend.start(work := bed.calling(returned, python="3.99"))
    end = bed.finish(work)
    assert (end.state, end.reason) == (WorkloadState.FAILED, "StartError")
    assert end.message.startswith("there is no Python 3.99 on this node, which made the call; install python3.99 there")
    assert bed.backend.result(work.job_uid, work.attempt, work.replica) is None


@pytest.mark.parametrize("hint", ["", "/nowhere/python", "/bin/true", "/etc/passwd"])
def test_a_hint_that_is_no_such_python_is_passed_over(bed: ProcessBed, hint: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    bed.backend.start(work := bed.calling(returned, interpreter=hint, env=(EnvVar("PATH", path),)))
    assert (bed.finish(work).message, value(bed, work)) == ("", "returned")


def test_an_environment_is_built_before_the_call_and_told_in_its_log(bed: ProcessBed) -> None:
    def where() -> str:
        return sys.prefix

    document = EnvironmentDocument(HERE, "").to_json()
    bed.backend.start(work := bed.calling(where, environment=document))
    assert bed.finish(work).message == ""
    assert value(bed, work).startswith(str(bed.root / "environments"))
    assert b"environment" in bed.log(work)
    # A second one finds it.
    bed.backend.start(work := bed.calling(where, environment=document, job="again"))
    bed.finish(work)
    assert value(bed, work).startswith(str(bed.root / "environments"))


def test_an_environment_that_cannot_be_built_is_told(bed: ProcessBed) -> None:
    bed.backend.start(work := bed.calling(returned, environment=EnvironmentDocument("3.99", "").to_json()))
    end = bed.finish(work)
    assert (end.reason, end.message.split(";")[0]) == (
        "StartError",
        "its environment: there is no Python 3.99 on this node",
    )


def test_a_build_ends_when_its_job_is_stopped(bed: ProcessBed, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n: > {tmp_path}/asked\nexec sleep 600\n")
    python.chmod(0o755)
    document = EnvironmentDocument(HERE, "").to_json()
    bed.backend.start(work := bed.calling(returned, environment=document, interpreter=str(python)))
    bed.until((tmp_path / "asked").exists)
    bed.backend.stop(work.name, 60)
    assert bed.finish(work).reason == "Stopped"


def test_a_blob_that_is_gone_refuses_the_start(bed: ProcessBed) -> None:
    work = bed.calling(returned)
    assert work.call is not None
    bed.blobs.delete(work.call.owner, work.call.payload)
    with pytest.raises(BackendRefused, match=r"the call's payload is not there any more"):
        bed.backend.start(work)
    assert bed.backend.get(work.name) is None
    assert not list(Path(bed.root, "jobs", work.job_uid).glob("a1-r0*/spec.json"))


def test_a_blob_of_another_owner_is_none(bed: ProcessBed) -> None:
    work = bed.calling(returned)
    sha256 = bed.blob("7:eve", payload_of(len, ""))
    assert work.call is not None
    with pytest.raises(BackendRefused):
        bed.backend.start(replace(work, call=replace(work.call, payload=sha256)))


def test_what_is_no_answer_is_told(bed: ProcessBed) -> None:
    def forge(text: str) -> None:
        directory = os.path.dirname(os.getcwd())
        with open(os.path.join(directory, "call", "outcome.json"), "w") as file:
            file.write(text)
        os._exit(0)

    bed.backend.start(work := bed.calling(forge, '{"format": 1, "outcome": "NodeLost"}'))
    bed.finish(work)
    with pytest.raises(ValueError, match=r"outcome is not one of"):
        bed.backend.result(work.job_uid, 1, 0)


def test_links_and_pipes_are_not_taken_for_answers(bed: ProcessBed) -> None:
    def forge(kind: str) -> None:
        place = os.path.join(os.path.dirname(os.getcwd()), "call", "outcome.json")
        os.symlink("/dev/zero", place) if kind == "link" else os.mkfifo(place)
        os._exit(0)

    for kind in ("link", "pipe"):
        bed.backend.start(work := bed.calling(forge, kind, job=kind))
        bed.finish(work)
        assert bed.backend.result(work.job_uid, 1, 0) is None


@pytest.mark.parametrize("left", ["nothing", "short", "long", "link", "pipe", "directory"])
def test_a_result_that_is_not_what_the_outcome_says(bed: ProcessBed, left: str) -> None:
    def forge(left: str, outcome: bytes) -> None:
        directory = os.path.join(os.path.dirname(os.getcwd()), "call")
        place = os.path.join(directory, "result")
        made = {
            "nothing": lambda: None, "link": lambda: os.symlink("/etc/passwd", place), "pipe": lambda: os.mkfifo(place),
            "directory": lambda: os.mkdir(place), "short": lambda: Path(place).write_bytes(b"1"),
            "long": lambda: Path(place).write_bytes(b"123"),
        }  # fmt: skip
        made[left]()
        Path(directory, "outcome.json").write_bytes(outcome)
        os._exit(0)

    said = Outcome(RETURNED, result="0" * 64, result_size=2).to_json()
    bed.backend.start(work := bed.calling(forge, left, said))
    bed.finish(work)
    with pytest.raises(ValueError, match=r"its result is not (there|as large as it says)"):
        bed.backend.result(work.job_uid, 1, 0)


def test_a_process_that_ends_without_an_answer_left_none(bed: ProcessBed) -> None:
    bed.backend.start(work := bed.calling(os._exit, 3))
    assert bed.finish(work).exit_code == 3
    assert bed.backend.result(work.job_uid, 1, 0) is None


def test_a_result_is_asked_for_when_it_is_there(bed: ProcessBed) -> None:
    def wait() -> None:
        threading.Event().wait()

    bed.backend.start(work := bed.calling(wait))
    bed.until(lambda: bed.seen(work).state is WorkloadState.RUNNING)
    with pytest.raises(BackendError, match=r"still runs"):
        bed.backend.result(work.job_uid, 1, 0)
    with pytest.raises(BackendError, match=r"there is no result"):
        bed.backend.result(work.job_uid, 2, 0)
    bed.backend.stop(work.name, 0)
    bed.finish(work)
    assert bed.backend.result(work.job_uid, 1, 0) is None


def test_a_session_answers_until_it_is_closed(bed: ProcessBed) -> None:
    bed.backend.start(work := bed.calling(returned, session=True))
    session = connected(lambda: bed.backend.reach(work.job_uid, 1, 0).session())
    payload = payload_of(os.getpid)
    pids = set()
    for _ in range(2):
        outcome, _, content = session.call(len(payload), [payload])
        pids.add(pickle.loads(b"".join(content)))
        assert outcome.outcome == RETURNED
    assert len(pids) == 1
    session.close_session()
    session.close()
    assert bed.finish(work).state is WorkloadState.SUCCEEDED
    assert value(bed, work) == "returned"
    with pytest.raises(SessionEnded):
        bed.backend.reach(work.job_uid, 1, 0).session()


def test_a_node_without_blobs_has_no_calls(bed: ProcessBed, tmp_path: Path) -> None:
    other = ProcessBackend(tmp_path / "other", NODE, bed.job_secrets, environment=os.environ)
    with pytest.raises(BackendError, match=r"keeps no blobs"):
        other.start(bed.calling(returned))
    other.close()


PYTHON = "/usr/bin/python3"


def of(user: User, **more: Any) -> dict[str, Any]:
    own = {"owner": f"{user.uid}:{user.name}", "interpreter": PYTHON}
    return {**own, "submitter": user.name, "submitter_uid": user.uid, **more}


@pytest.mark.users
class TestAsItsSubmitter:
    def test_a_call_and_its_files_are_the_submitters_alone(self, shared: ProcessBed, users: tuple[User, User]) -> None:
        alice, eve = users

        def look(large: str) -> dict[str, Any]:
            place = os.path.join(os.path.dirname(os.getcwd()), "call")
            found = {name[:9]: os.stat(os.path.join(place, name)) for name in (".", *os.listdir(place))}
            return {name: (info.st_uid, info.st_mode & 0o777) for name, info in found.items()} | {large: True}

        work = with_large(shared, shared.calling(look, **of(alice)), look)
        shared.backend.start(work)
        assert shared.finish(work).message == ""
        files = dict.fromkeys(("payload", "call.json", "argument-"), (alice.uid, 0o600))
        found = value(shared, work)
        assert {name: found[name] for name in (".", "large", *files)} == {
            ".": (alice.uid, 0o700), "large": True, **files,
        }  # fmt: skip
        place = shared.root / "users" / str(alice.uid) / work.job_uid / "a1-r0"
        assert not (place / "call").exists()
        # What it left is the daemon's by now: the user has no way to change it.
        kept = shared.run_directory(work) / "call"
        assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in kept.iterdir()} == {(0, 0o600)}

        def pry() -> list[str]:
            seen = []
            for path in paths:
                with contextlib.suppress(OSError):
                    seen.append(str(os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)))  # noqa: SIM115
            return seen

        paths = [
            str(kept),
            str(kept / "result"),
            str(shared.root / "users" / str(alice.uid)),
            str(shared.root / "jobs"),
        ]
        paths.append(str(shared.blobs._directory))
        shared.backend.start(work := shared.calling(pry, job="eve", **of(eve)))
        shared.finish(work)
        assert value(shared, work) == []

    def test_a_link_to_a_file_of_roots_is_not_taken_for_a_result(
        self, shared: ProcessBed, users: tuple[User, User]
    ) -> None:
        secret = shared.directory / "secret"
        secret.write_text("of root")
        secret.chmod(0o600)

        def forge(kind: str, target: str) -> None:
            place = os.path.join(os.path.dirname(os.getcwd()), "call")
            if kind == "directory":
                os.rename(place, f"{place}.moved")
                os.symlink(os.path.dirname(target), place)
                place = f"{place}.moved"
            with contextlib.suppress(OSError):  # The kernel may refuse hard links to what is not one's own.
                for name in ("result", "outcome.json"):
                    (os.link if kind == "hard" else os.symlink)(target, os.path.join(place, name))
            os._exit(0)

        for kind in ("soft", "hard", "directory"):
            work = shared.calling(forge, kind, str(secret), job=kind, **of(users[0]))
            shared.backend.start(work)
            shared.finish(work)
            assert shared.backend.result(work.job_uid, 1, 0) is None
            assert secret.read_text() == "of root"

    def test_a_sparse_file_is_not_copied_to_the_daemons_disk(
        self, shared: ProcessBed, users: tuple[User, User]
    ) -> None:
        def forge() -> None:
            place = os.path.join(os.path.dirname(os.getcwd()), "call")
            for name in ("result", "outcome.json"):
                with open(os.path.join(place, name), "wb") as file:
                    file.truncate(2**40)
            os._exit(0)

        shared.backend.start(work := shared.calling(forge, **of(users[0])))
        shared.finish(work)
        assert list((shared.run_directory(work) / "call").iterdir()) == []
        assert shared.backend.result(work.job_uid, 1, 0) is None

    def test_a_hint_is_run_as_the_submitter(self, shared: ProcessBed, users: tuple[User, User]) -> None:
        alice = users[0]
        made = alice.home / "python"
        made.write_text(f'#!/bin/sh\nid -u >> {alice.home}/ran\nexec {PYTHON} "$@"\n')
        made.chmod(0o755)
        shared.backend.start(work := shared.calling(returned, **of(alice, interpreter=str(made))))
        shared.finish(work)
        assert value(shared, work) == "returned"
        assert (alice.home / "ran").read_text().split() == [str(alice.uid)] * 2

    def test_a_session_is_its_submitters_process(self, shared: ProcessBed, users: tuple[User, User]) -> None:
        alice = users[0]
        shared.backend.start(work := shared.calling(returned, session=True, **of(alice)))
        session = connected(lambda: shared.backend.reach(work.job_uid, 1, 0).session())
        payload = payload_of(os.getuid)
        _, _, content = session.call(len(payload), [payload])
        assert pickle.loads(b"".join(content)) == alice.uid
        session.close_session()
        session.close()
        shared.finish(work)
