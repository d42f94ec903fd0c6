"""The standard input of a process job's own program: given once, whole or not at all."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.backends.base import Workload, WorkloadState
from cumulus.errors import NotRunning
from cumulus.lib.execution import Execution
from tests.backends.process_bed import ProcessBed
from tests.waiting import PATIENCE


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[ProcessBed]:
    made = ProcessBed(tmp_path)
    yield made
    made.close()


def started(bed: ProcessBed, script: str, *, stdin: bool = True) -> Workload:
    bed.backend.start(work := bed.work("sh", "-c", f": > ready; {script}", stdin=stdin))
    bed.running(work)
    return work


def feed(bed: ProcessBed, work: Workload) -> Execution:
    return bed.backend.reach(work.job_uid, work.attempt, work.replica).feed()


def write(made: Execution, data: bytes) -> None:
    view = memoryview(data)
    while view:
        assert select.select([], [made.stdin], [], PATIENCE)[1]
        view = view[os.write(made.stdin, view) :]


def taken(made: Execution) -> int | None:
    assert select.select([made.done], [], [], PATIENCE)[0]
    code = made.exit().code
    made.close()
    return code


def test_it_is_read_to_its_end(bed: ProcessBed) -> None:
    work = started(bed, "wc -c; cat /dev/stdin; exit 3")
    made = feed(bed, work)
    write(made, b"x" * 300_000)
    with pytest.raises(NotRunning, match="its input was given before"):
        feed(bed, work)
    made.close_stdin()
    assert taken(made) == 0
    assert bed.finish(work).exit_code == 3
    assert bed.log(work).split() == [b"300000"]


def test_half_of_it_never_looks_like_all_of_it(bed: ProcessBed) -> None:
    work = started(bed, "trap 'echo HUP; exit 9' HUP; wc -c; echo whole")
    made = feed(bed, work)
    write(made, b"half")
    made.close()
    assert bed.finish(work).exit_code == 9
    log = bed.log(work)
    assert b"HUP\n" in log
    assert b"whole" not in log


def test_a_program_that_takes_no_more_ends_as_it_likes(bed: ProcessBed) -> None:
    work = started(bed, "read line; echo got $line")
    made = feed(bed, work)
    write(made, b"one\ntwo\n")
    assert bed.finish(work).state is WorkloadState.SUCCEEDED
    assert select.select([made.done], [], [], PATIENCE)[0]
    assert made.exit().code is None
    made.close()
    assert bed.log(work) == b"got one\n"


def test_one_that_waits_for_none_has_none(bed: ProcessBed) -> None:
    work = started(bed, "wc -c; while [ ! -e end ]; do sleep 0.05; done", stdin=False)
    with pytest.raises(NotRunning, match="the job waits for no input"):
        feed(bed, work)
    bed.backend.stop(work.name, 0)
    bed.finish(work)
    assert bed.log(work).split() == [b"0"]
