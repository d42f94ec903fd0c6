"""What a training loop sees: saves, loads, and when to make them."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import stat
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest

from cumulus.checkpoint import gang_save, layout, variables
from cumulus.checkpoint.checkpointer import Checkpointer, NoPlace
from cumulus.checkpoint.settings import Settings
from cumulus.checkpoint.states import NoState
from cumulus.checkpoint.writing import UnsafePlace, begin
from tests.checkpoint.conftest import Make, Now
from tests.disks import in_child, refuse_all


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_what_is_saved_is_loaded(make: Make, tmp_path: Path) -> None:
    state = {"step": 3, "weights": numpy.arange(100_000.0), "names": ["a", "b"]}
    make().save(state, step=3)
    loaded = make().load()
    assert loaded["step"] == 3
    assert numpy.array_equal(loaded["weights"], state["weights"])
    top = tmp_path / "l1" / "step-000000000003"
    assert stat.S_IMODE(top.stat().st_mode) == stat.S_IMODE((tmp_path / "l1").stat().st_mode) == 0o700
    assert names(top) == ["manifest.json", "state.pickle"]


def test_there_is_none_at_first(make: Make, tmp_path: Path) -> None:
    assert make().load() is None
    assert make().latest() is None
    assert not (tmp_path / "l1").exists(), "looking makes nothing"


def test_any_library_writes_what_it_likes(make: Make) -> None:
    checkpointer = make(attempt=4, token=9)
    with checkpointer.saving(numpy.int64(8)) as directory:  # type: ignore[arg-type]
        os.mkdir(f"{directory}/deep")
        Path(directory, "deep", "x").write_bytes(b"1")
        Path(directory, "y").write_bytes(b"22")
    found = make().latest()
    assert found is not None
    assert [(file.path, file.size) for file in found.manifest.files] == [("deep/x", 1), ("y", 2)]
    assert (found.manifest.attempt, found.manifest.token, found.manifest.world) == (4, 9, 1)
    with pytest.raises(NoState, match="was not written by save_checkpoint: read it from the directory"):
        make().load()


def test_a_block_that_raises_leaves_the_one_before(make: Make, tmp_path: Path) -> None:
    checkpointer = make()
    checkpointer.save("one", step=1)

    def fail() -> None:
        with checkpointer.saving(2) as directory:
            Path(directory, "half").write_bytes(b"")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert checkpointer.load() == "one"
    assert names(tmp_path / "l1") == [".save-times.json", "step-000000000001"]


def test_what_cannot_be_pickled_leaves_the_one_before(make: Make, tmp_path: Path) -> None:
    checkpointer = make()
    checkpointer.save("one", step=1)
    for wait in (True, False):
        with pytest.raises(TypeError, match="cannot pickle"):
            checkpointer.save({"lock": threading.Lock()}, step=2, wait=wait)
    assert names(tmp_path / "l1") == [".save-times.json", "step-000000000001"]


def test_a_class_that_only_the_program_has_is_saved(make: Make) -> None:
    class Mine:
        value = 5

    make().save({"mine": Mine()}, step=1)
    assert make().load()["mine"].value == 5


def test_the_newest_are_kept(make: Make, tmp_path: Path) -> None:
    checkpointer = make(keep=2)
    for step in (10, 20, 30, 40):
        checkpointer.save(step, step=step)
    assert layout.steps(str(tmp_path / "l1")) == [40, 30]


def test_the_same_step_again_takes_the_place_of_the_first(make: Make, tmp_path: Path) -> None:
    checkpointer = make()
    checkpointer.save("first", step=5)
    checkpointer.save("second", step=5)
    assert make().load() == "second"
    assert names(tmp_path / "l1") == [".save-times.json", "step-000000000005"]


def test_a_damaged_one_is_named_and_goes_first(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpointer = make(keep=2)
    checkpointer.save("one", step=1)
    checkpointer.save("two", step=2)
    file = tmp_path / "l1" / "step-000000000002" / "state.pickle"
    file.write_bytes(file.read_bytes().replace(b"two", b"TWO"))
    again = make(keep=2)
    assert again.load() == "one"
    assert "not used: checkpoint of step 2: state.pickle: does not match its sha256" in capsys.readouterr().err
    again.save("one and a half", step=1)
    again.save("three", step=3)
    assert layout.steps(str(tmp_path / "l1")) == [3, 1]


def test_with_wait_false_later_changes_do_not_reach_the_file(make: Make) -> None:
    checkpointer = make()
    state = {"weights": numpy.zeros(2_000_000), "list": [1]}
    for step in range(5):
        state["weights"][:] = step
        state["list"] = [step]
        checkpointer.save(state, step=step, wait=False)
        state["weights"][:] = -1
        state["list"].append(-1)
    loaded = checkpointer.load()
    assert loaded["list"] == [4]
    assert set(loaded["weights"]) == {4.0}


def test_an_error_beside_the_program_is_raised_by_the_next_call(make: Make, tmp_path: Path) -> None:
    checkpointer = make()
    checkpointer.save("one", step=1)
    (tmp_path / "l1").rename(tmp_path / "away")
    (tmp_path / "l1").write_text("in the way")
    checkpointer.save("two", step=2, wait=False)
    with pytest.raises(NotADirectoryError):
        checkpointer.wait()
    checkpointer.wait()


def test_what_dead_writers_left_is_deleted_and_what_living_ones_write_is_not(make: Make, tmp_path: Path) -> None:
    place = tmp_path / "l1"
    dead = begin(str(place), 7)
    dead.close()
    living = begin(str(place), 8)
    assert names(place) == [os.path.basename(living.directory)]
    make().save("one", step=1)
    assert os.path.basename(living.directory) in names(place)
    living.abandon()


def test_a_save_that_is_interrupted_leaves_nothing(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    checkpointer = make()
    with monkeypatch.context() as patch:
        patch.setattr(gang_save, "seal", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save("one", step=1)
    assert names(tmp_path / "l1") == []
    checkpointer.save("one", step=1)
    assert checkpointer.load() == "one"


def test_links_that_another_planted_lead_nowhere(make: Make, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / "l1"
    place.mkdir(mode=0o700)
    (place / ".tmp-000000000003-00000000").symlink_to(elsewhere)
    (place / "step-000000000003").symlink_to(elsewhere)
    (place / ".save-times.json").symlink_to(elsewhere / "times")
    (elsewhere / "times").write_text("[100.0]")
    checkpointer = make()
    assert checkpointer.latest() is None
    with pytest.raises(layout.Damaged, match="is neither a file nor a directory"), checkpointer.saving(1) as directory:
        os.symlink("/etc/passwd", f"{directory}/link")
    checkpointer.save("mine", step=3)
    assert (checkpointer.load(), make().load()) == ("mine", "mine")
    assert names(elsewhere) == ["times"]
    assert (elsewhere / "times").read_text() == "[100.0]"


@pytest.mark.skipif(os.geteuid() != 0, reason="LEFT OUT: only root gives directories away")
def test_a_place_where_others_could_replace_files_is_refused(make: Make, tmp_path: Path) -> None:
    place = tmp_path / "l1"
    place.mkdir()
    os.chown(place, 4242, -1)
    with pytest.raises(UnsafePlace, match="belongs to user 4242: checkpoints need a directory of your own"):
        make().save("x", step=1)
    os.chown(place, 0, -1)
    place.chmod(0o777)
    with pytest.raises(UnsafePlace, match="every user may write to"):
        make().save("x", step=1)
    place.chmod(0o1777)
    make().save("x", step=1)


def test_a_full_disk_leaves_the_one_before(make: Make, tmp_path: Path) -> None:
    """In a child that may write no larger files, and gets no signal for it."""
    import resource

    make().save(b"small", step=1)
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            checkpointer = make()
            for wait in (True, False):
                try:
                    checkpointer.save(b"x" * 3_000_000, step=2, wait=wait)
                    checkpointer.wait()
                except OSError as error:
                    told = f"File too large: step 2 is not saved, and what was saved before stays: '{tmp_path}/l1'"
                    status += str(error) == f"[Errno {errno.EFBIG}] {told}"
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert make().load() == b"small"
    assert names(tmp_path / "l1") == [".save-times.json", "step-000000000001"]


def test_a_really_full_disk_is_named_and_takes_the_next_one_when_it_has_room(
    make: Make, small_disk: Path, tmp_path: Path
) -> None:
    place = small_disk / "l1"
    checkpointer = make(path=str(place))
    checkpointer.save(b"small", step=1)
    hog = small_disk / "hog"
    hog.write_bytes(bytes(6 * 2**20))
    told = re.escape(f"No space left on device: step 2 is not saved, and what was saved before stays: '{place}'")
    with pytest.raises(OSError, match=told):
        checkpointer.save(bytes(4 * 2**20), step=2)
    with pytest.raises(OSError, match=told), checkpointer.saving(2) as directory:
        Path(directory, "mine").write_bytes(bytes(4 * 2**20))
    # What fails elsewhere is the program's own.
    with pytest.raises(FileNotFoundError, match=r"not-there'$"), checkpointer.saving(2):
        (tmp_path / "not-there").read_bytes()
    assert checkpointer.load() == b"small"
    assert names(place) == [".save-times.json", "step-000000000001"]
    hog.unlink()
    checkpointer.save(bytes(4 * 2**20), step=2)
    assert checkpointer.load() == bytes(4 * 2**20)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize(
    ("call", "error"), [("fsync", errno.EIO), ("fsync", errno.EDQUOT), ("write", errno.EDQUOT), ("write", errno.EIO)]
)
def test_a_disk_that_fails_or_a_quota_that_is_used_up(
    make: Make, tmp_path: Path, call: str, error: int, wait: bool
) -> None:
    """The kernel says so, in a child; here the disk works again."""
    make().save(b"small", step=1)

    def save() -> str:
        checkpointer = make()
        if not refuse_all(call, error):
            return "no filter"
        said = []
        for step in (2, 2):
            try:
                checkpointer.save(b"x" * 3_000_000, step=step, wait=wait)
                checkpointer.wait()
            except OSError as problem:
                said.append(str(problem))
        try:
            with checkpointer.saving(3) as directory:
                Path(directory, "mine").write_bytes(b"x" * 3_000_000)
        except OSError as problem:
            said.append(str(problem))
        return "\n".join([*said, repr(checkpointer.load())])

    told = in_child(save)
    if told == "no filter":
        pytest.skip("LEFT OUT: this machine has no seccomp filters")
    stays = f"is not saved, and what was saved before stays: '{tmp_path}/l1'"
    lines = [f"[Errno {error}] {os.strerror(error)}: step {step} {stays}" for step in (2, 2, 3)]
    assert told.splitlines() == [*lines, "b'small'"]
    assert names(tmp_path / "l1") == [".save-times.json", "step-000000000001"]
    make().save(b"next", step=2)
    assert make().load() == b"next"


def test_a_file_system_that_became_read_only(make: Make, small_disk: Path) -> None:
    """As after an error of the disk below it."""
    make(path=str(small_disk / "l1")).save(b"small", step=1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    checkpointer = make(path=str(small_disk / "l1"))
    with pytest.raises(OSError, match=r"Read-only file system: step 2 is not saved, and what was saved before stays"):
        checkpointer.save(b"more", step=2)
    assert checkpointer.load() == b"small"


# When


def test_outside_of_cumulus_nothing_is_due(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    checkpointer = Checkpointer(Settings.from_environment({}))
    assert not checkpointer.should_checkpoint()
    assert checkpointer.time_remaining() == float("inf")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    checkpointer.save("here", step=1)
    checkpointer.wait()
    assert names(tmp_path / "checkpoints") == [".save-times.json", "step-000000000001"]
    checkpointer.exit_if_ending()


def test_a_job_without_a_checkpoint_path_saves_nowhere(tmp_path: Path) -> None:
    checkpointer = Checkpointer(Settings.from_environment({variables.JOB: "train", variables.LEASE_DEADLINE: "1"}))
    assert not checkpointer.should_checkpoint()
    assert checkpointer.load() is None
    with pytest.raises(NoPlace, match=r"give it a spec\.checkpoint\.path"):
        checkpointer.save("x", step=1)


def test_until_a_save_is_measured_the_whole_grace_period_counts(make: Make, now: Now) -> None:
    checkpointer = make(grace=30.0, deadline=str(now() + 100))
    asked = []
    while not checkpointer.should_checkpoint():
        asked.append(now())
        now.advance(0.5)
    assert checkpointer.time_remaining() == pytest.approx(30.5, abs=0.6)
    assert checkpointer.why() == "the lease ends"
    with checkpointer.saving(1):
        now.advance(0.2)
    assert not checkpointer.should_checkpoint(), "a save takes far less than what is left"
    checkpointer.exit_if_ending()
    while not checkpointer.should_checkpoint():
        now.advance(0.1)
    assert 1.0 < checkpointer.time_remaining() < 10.0
    with checkpointer.saving(2):
        now.advance(0.2)
    assert not checkpointer.should_checkpoint(), "once"
    with pytest.raises(SystemExit) as ended:
        checkpointer.exit_if_ending()
    assert ended.value.code == 75


def test_a_lease_that_is_extended_goes_on(make: Make, now: Now, tmp_path: Path) -> None:
    deadline = tmp_path / "deadline"
    deadline.write_text(f"{now() + 40}\n")
    checkpointer = make(grace=30.0, deadline=str(deadline))
    now.advance(20)
    assert checkpointer.should_checkpoint()
    deadline.write_text(f"{now() + 1000}\n")
    assert not checkpointer.should_checkpoint()
    assert checkpointer.time_remaining() == 1000
    deadline.unlink()
    assert checkpointer.time_remaining() == 1000, "what it said last"


def test_the_accounts_of_its_leases_tell_of_a_longer_one(make: Make, now: Now, tmp_path: Path) -> None:
    """As Chronos writes them: see chronos/enforce/account.py."""
    places = [tmp_path / name for name in ("a", "b")]

    def tell(place: Path, seconds: float) -> None:
        place.mkdir(exist_ok=True)
        (place / "limits").write_bytes(
            struct.pack("=8sQQii16s", b"CHRLIM1\0", 1, int((now() + seconds) * 1e9), 0, 0, b"")
        )

    tell(places[0], 40)
    tell(places[1], 500)
    checkpointer = make(grace=30.0, deadline=str(now() + 45), accounts=tuple(map(str, places)))
    assert checkpointer.time_remaining() == pytest.approx(40)
    now.advance(20)
    assert checkpointer.should_checkpoint()
    tell(places[0], 1000)
    assert not checkpointer.should_checkpoint()
    assert checkpointer.time_remaining() == pytest.approx(480)
    (places[1] / "limits").write_bytes(b"nonsense")
    assert checkpointer.time_remaining() == pytest.approx(480), "what it said last"


def test_what_the_loop_takes_for_a_step_counts_too(make: Make, now: Now) -> None:
    checkpointer = make(deadline=str(now() + 100))
    with checkpointer.saving(1):
        now.advance(0.2)
    while not checkpointer.should_checkpoint():
        now.advance(12)
    assert checkpointer.time_remaining() > 12


def test_every_so_often(make: Make, now: Now) -> None:
    checkpointer = make(every=60.0)
    assert not checkpointer.should_checkpoint()
    now.advance(59)
    assert not checkpointer.should_checkpoint()
    now.advance(1)
    assert checkpointer.should_checkpoint()
    assert checkpointer.should_checkpoint(), "until a save begins"
    with checkpointer.saving(1):
        now.advance(5)
    assert not checkpointer.should_checkpoint()
    checkpointer.exit_if_ending()
    now.advance(55)
    assert checkpointer.should_checkpoint()


def test_the_node_asks(make: Make, now: Now, tmp_path: Path) -> None:
    request = tmp_path / "request"
    checkpointer = make(request=str(request))
    assert not checkpointer.should_checkpoint()
    request.write_text("preempted\n")
    now.advance(0.05)
    assert not checkpointer.should_checkpoint(), "it looks ten times a second"
    now.advance(0.1)
    assert checkpointer.should_checkpoint()
    checkpointer.save("x", step=1)
    assert not checkpointer.should_checkpoint()
    with pytest.raises(SystemExit):
        checkpointer.exit_if_ending()


def test_a_save_that_a_request_has_preceded_answers_it(make: Make, tmp_path: Path) -> None:
    request = tmp_path / "request"
    checkpointer = make(request=str(request))
    checkpointer.save("x", step=1)
    checkpointer.exit_if_ending()
    request.write_text("drain\n")
    checkpointer.exit_if_ending()
    checkpointer.save("x", step=2)
    with pytest.raises(SystemExit):
        checkpointer.exit_if_ending()


def test_a_save_beside_the_program_answers_it_once(make: Make, now: Now, tmp_path: Path) -> None:
    checkpointer = make(every=10.0)
    now.advance(11)
    assert checkpointer.should_checkpoint()
    checkpointer.save(io.BytesIO(b"x" * 1_000_000), step=1, wait=False)
    assert not checkpointer.should_checkpoint()
    checkpointer.wait()
    assert not checkpointer.should_checkpoint()


def test_the_stop_signal_is_a_reason_once(make: Make, now: Now) -> None:
    checkpointer = make(job=True)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert not checkpointer.should_checkpoint()
        os.kill(os.getpid(), signal.SIGTERM)
        assert checkpointer.should_checkpoint()
        assert checkpointer.why() == "the stop signal came"
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a second one ends the program"
        checkpointer.save("x", step=1)
        with pytest.raises(SystemExit):
            checkpointer.exit_if_ending()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_the_program_stays(make: Make) -> None:
    def mine(*_: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        checkpointer = make(job=True)
        checkpointer.should_checkpoint()
        assert signal.getsignal(signal.SIGTERM) is mine
        checkpointer.stop()
        assert checkpointer.should_checkpoint()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_save_times_last_over_attempts(make: Make, now: Now, tmp_path: Path) -> None:
    first = make()
    for step in range(40):
        with first.saving(step):
            now.advance(3.0)
    second = make(deadline=str(now() + 100), grace=90.0)
    while not second.should_checkpoint():
        now.advance(0.1)
    assert 3.5 < second.time_remaining() < 5.5
    (tmp_path / "l1" / ".save-times.json").write_text('["x", -1, {"a": 1}')
    third = make(deadline=str(now() + 100), grace=90.0)
    now.advance(15)
    assert third.should_checkpoint(), "what cannot be read counts as not measured"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Settings()),
        ({variables.JOB: "j"}, Settings(path=None, job=True)),
        ({variables.PATH: "/l1", variables.EVERY: "60", variables.KEEP: "0"}, Settings(path="/l1", every=60.0, keep=1)),
        ({variables.EVERY: "soon", variables.KEEP: "-3", variables.GRACE: "nan"}, Settings()),
        ({variables.REPLICA: "1", variables.REPLICAS: "2"}, Settings(rank=1, world=2)),
        ({variables.REPLICA: "0", variables.REPLICAS: "1", "RANK": "3", "WORLD_SIZE": "4"}, Settings(rank=3, world=4)),
        ({"RANK": "4", "WORLD_SIZE": "4"}, Settings()),
    ],
)
def test_what_the_environment_says(environ: dict[str, str], expected: Settings) -> None:
    assert Settings.from_environment(environ) == expected


def test_the_end_of_a_lease_by_the_wall_clock(tmp_path: Path) -> None:
    import datetime

    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    text = ends.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    settings = Settings.from_environment({variables.EXPIRES_AT: f"2999-01-01T00:00:00Z,{text}"})
    assert 20 < Checkpointer(settings).time_remaining() <= 100
    assert Checkpointer(Settings(expires_at="tomorrow")).time_remaining() == float("inf")
