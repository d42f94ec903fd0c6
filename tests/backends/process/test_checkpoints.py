"""What a run is told of checkpoints, how it is asked for one, and what is seen of those it makes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import Checkpointing, Observed, Workload
from cumulus.backends.checkpoints import SealedCheckpoint
from cumulus.backends.rundir.checkpoint import CheckpointFiles
from tests.backends.process_bed import ProcessBed

LONG = 900.0
"""Seconds of grace: whoever is kept for them is not seen to end."""

ROOT = Path(__file__).parents[3]

SAVE = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from cumulus.checkpoint import layout
PATH, ASKED = os.environ["CUMULUS_CHECKPOINT_PATH"], os.environ.get("CUMULUS_CHECKPOINT_REQUEST", "")
TOKEN = 1
def save(step):
    place = os.path.join(PATH, layout.step_name(step))
    os.makedirs(place)
    with open(os.path.join(place, "weights"), "w") as file:
        file.write("w" * step)
    digest = __import__("hashlib").sha256(b"w" * step).hexdigest()
    files = (layout.File("weights", step, digest),)
    manifest = layout.FilesManifest(step, "2030-01-01T00:00:00Z", 0.5, 1, 1, TOKEN, files)
    with open(os.path.join(place, ".new"), "wb") as file:
        file.write(manifest.encode())
    os.rename(os.path.join(place, ".new"), os.path.join(place, "manifest.json"))
def ready():
    open("ready", "w").close()
"""


def asked(bed: ProcessBed, script: str, **more: object) -> Workload:
    fields: dict[str, Any] = {"checkpoint_path": "saved", "checkpointing": Checkpointing(keep=2), **more}
    return bed.work(sys.executable, "-c", SAVE + script, **fields)


def stop(bed: ProcessBed, work: Workload, grace: float = LONG, reason: str = "Suspended") -> float:
    """Stop it, and wait for its end. The seconds that this takes."""
    bed.running(work)
    since = time.monotonic()
    bed.backend.stop(work.name, grace, reason)
    bed.finish(work)
    return time.monotonic() - since


def observed(bed: ProcessBed, work: Workload) -> tuple[Observed, SealedCheckpoint]:
    """The run, and the checkpoint that was seen of it."""
    found = bed.backend.get(work.name)
    assert found is not None
    assert found.checkpoint is not None
    return found, found.checkpoint


def test_a_run_is_asked_for_a_checkpoint_and_ends_as_soon_as_it_is_whole(bed: ProcessBed) -> None:
    script = """
save(1); ready()
while not os.path.exists(ASKED): time.sleep(0.01)
print(open(ASKED).read(), end="", flush=True)
time.sleep(0.3)
save(2)
time.sleep(600)
"""
    bed.backend.start(work := asked(bed, script))
    stop(bed, work)
    seen, saved = observed(bed, work)
    assert (saved.step, saved.size, saved.seconds) == (2, 2, 0.5)
    assert (seen.reason, seen.exit_code) == ("Stopped", 143)
    assert bed.log(work) == b"Suspended\n"


def test_a_run_with_a_handler_gets_the_signal_at_once_and_is_not_waited_for_after_its_save(bed: ProcessBed) -> None:
    script = """
import signal
def stop(*_):
    print(os.path.exists(ASKED), flush=True)
    save(5)
signal.signal(signal.SIGTERM, stop)
ready()
while True: time.sleep(1)
"""
    bed.backend.start(work := asked(bed, script))
    stop(bed, work)
    seen, saved = observed(bed, work)
    assert (saved.step, seen.exit_code) == (5, 137)
    assert bed.log(work) == b"True\n"


def test_a_run_that_never_saved_and_knows_no_signal_ends_at_once(bed: ProcessBed) -> None:
    bed.backend.start(work := asked(bed, "ready(); time.sleep(600)"))
    stop(bed, work)


def test_a_run_that_does_not_save_in_time_is_ended_by_its_grace(bed: ProcessBed) -> None:
    bed.backend.start(work := asked(bed, "save(1); ready(); time.sleep(60)"))
    assert stop(bed, work, 2) > 0.9


def test_a_run_that_saves_and_exits_tells_so(bed: ProcessBed) -> None:
    script = "save(1); ready()\nwhile not os.path.exists(ASKED): time.sleep(0.01)\nsave(2); sys.exit(75)"
    bed.backend.start(work := asked(bed, script))
    stop(bed, work)
    seen, saved = observed(bed, work)
    assert (saved.step, seen.exit_code, seen.reason) == (2, 75, "Stopped")


@pytest.mark.parametrize(
    "damage",
    [
        "os.unlink(manifest); os.mkfifo(manifest)",
        "os.unlink(manifest); os.symlink('/etc/passwd', manifest)",
        "os.truncate(manifest, 10)",
        "open(manifest, 'r+b').write(b'[1, 2')",
        "os.truncate(manifest, 2**40)",
    ],
)
def test_a_manifest_that_is_none_is_not_believed(bed: ProcessBed, damage: str) -> None:
    script = f"save(3); save(4)\nmanifest = os.path.join(PATH, layout.step_name(4), 'manifest.json')\n{damage}"
    bed.backend.start(work := asked(bed, script))
    bed.finish(work)
    _, saved = observed(bed, work)
    assert saved.step == 3


def test_what_a_job_writes_over_the_record_is_not_believed(bed: ProcessBed) -> None:
    bed.backend.start(work := asked(bed, "open('../checkpoint.json', 'w').write('[]'); ready(); time.sleep(60)"))
    bed.running(work)
    found = bed.backend.get(work.name)
    assert found is not None
    assert found.checkpoint is None


def test_a_first_attempt_goes_on_from_the_job_that_it_names(bed: ProcessBed) -> None:
    bed.backend.start(first := asked(bed, "save(7)", job="before"))
    bed.finish(first)
    after = Checkpointing(keep=2, after="uid-before", after_path="saved")
    script = "print(sorted(os.listdir(PATH)), flush=True)"
    bed.backend.start(work := asked(bed, script, checkpointing=after))
    bed.finish(work)
    assert bed.log(work) == b"['step-000000000007']\n"
    # What it has by then is its own.
    bed.backend.start(again := asked(bed, "save(9); " + script, checkpointing=after, attempt=2))
    bed.finish(again)
    assert bed.log(again) == b"['step-000000000007', 'step-000000000009']\n"


def test_what_it_goes_on_from_takes_the_place_of_a_damaged_one(bed: ProcessBed) -> None:
    bed.backend.start(first := asked(bed, "save(7)", job="before"))
    bed.finish(first)
    after = Checkpointing(keep=2, after="uid-before", after_path="saved")
    damage = "os.remove(f'{PATH}/step-000000000007/weights')\nopen(f'{PATH}/step-000000000007/weights', 'w')"
    bed.backend.start(work := asked(bed, damage, checkpointing=after))
    bed.finish(work)
    script = "print(os.path.getsize(f'{PATH}/step-000000000007/weights'), flush=True)"
    bed.backend.start(again := asked(bed, script, checkpointing=after, attempt=2))
    assert bed.finish(again).exit_code == 0
    assert bed.log(again) == b"7\n"


def test_where_nothing_is_to_go_on_from_it_does_not_start(bed: ProcessBed) -> None:
    after = Checkpointing(keep=2, after="uid-none", after_path="saved")
    bed.backend.start(work := asked(bed, "", checkpointing=after))
    end = bed.finish(work)
    assert (end.reason, end.exit_code) == ("StartError", None)
    assert "no whole checkpoint" in end.message
    assert not os.path.exists(bed.run_directory(work) / "started.json")


def test_half_a_checkpoint_and_what_the_uploader_writes_are_no_newer_one(tmp_path: Path) -> None:
    files = CheckpointFiles(str(tmp_path))
    for name in (".tmp-000000000007-1a2b3c4d", ".uploader"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert files.newest() is None
    (tmp_path / "weights").touch()
    assert files.newest() is not None
