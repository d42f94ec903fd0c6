"""scripts/lab.sh as a new user runs it: the tour, the playground after it, and nothing left however it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.lab.sweep import traces
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "lab.sh"


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    # Below /tmp itself: the name of a socket may be 107 characters long.
    place = Path(tempfile.mkdtemp(prefix="cumulus-tour-"))
    yield {**os.environ, "VENV": sys.prefix, "CUMULUS_LAB": str(place / "lab"), "COLUMNS": "200"}
    shutil.rmtree(place, ignore_errors=True)


def of_lab(directory: str, *names: str) -> list[int]:
    """Processes with the lab's directory in their command line or environment, or as a mount; of those with all of the
    names in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                about = words + (entry / "environ").read_bytes() + (entry / "mountinfo").read_bytes()
                if directory.encode() in about and all(name.encode() in words for name in names):
                    found.append(int(entry.name))
    return found


@contextmanager
def started(environment: dict[str, str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as out:
        script = subprocess.Popen(
            [str(SCRIPT)], env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield script
    finally:
        with suppress(ProcessLookupError):
            script.send_signal(signal.SIGTERM)
        script.wait(PATIENCE)


def says(script: subprocess.Popen[bytes], output: Path, words: bytes, within: float) -> None:
    eventually(lambda: words in output.read_bytes() or script.poll() is not None, within, words.decode())
    assert script.poll() is None, output.read_text()


class Traces:
    """What a lab that is up has on this machine, beside processes: asked for while it is up."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._cgroups = (Path(directory) / "cgroups").read_text().split()
        self._tag = self._cgroups[0].partition("-")[0]
        assert self._interfaces()

    def _interfaces(self) -> list[str]:
        done = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if self._tag in line]

    def cgroups(self) -> list[Path]:
        return [place for name in self._cgroups for place in traces(name)]

    def left(self) -> object:
        files = [self._directory] if Path(self._directory).exists() else []
        return self.cgroups() or files or self._interfaces() or of_lab(self._directory)

    def are_gone(self) -> None:
        eventually(lambda: not self.left(), what=lambda: f"something of {self._directory} is left: {self.left()}")


def test_the_tour_the_playground_and_the_end(environment: dict[str, str], tmp_path: Path) -> None:
    """It is ended by SIGKILL of the script alone: the controllers and the lab go on for a moment, and then are gone."""
    output = tmp_path / "output"
    directory = environment["CUMULUS_LAB"]
    with started(environment, output) as script:
        says(script, output, b"Yours until Ctrl-C", 1500)
        said = output.read_text()
        assert re.search(r"^(LeaseExpired )+Completed$", said, re.MULTILINE)
        # What a tour keeps is its own lab's, so that the next one tells the same story.
        assert (Path(directory) / "shared" / "cumulus-example-checkpoint").is_dir()
        assert "product: 262144" in said, said
        assert "2 of 3 on " in said, said

        def lab(*words: str, code: int = 0) -> str:
            done = subprocess.run(
                [str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert done.returncode == code, done.stderr
            return done.stdout + done.stderr

        (owner,) = of_lab(directory, "tests.lab\0up")
        assert f"a lab is up in {directory}, process {owner}; end it" in lab("--once", code=1)
        assert lab("docker", "manager", "node", "ls").count("Ready") == 3
        assert lab("on", "worker2", "hostname") == "worker2\n"
        assert "SWARM_MANAGER=unix://" in lab("env")
        lab("kill", "worker1")
        eventually(lambda: lab("docker", "manager", "node", "ls").count("Down") == 1, 150, "the killed one is Down")
        lab("start", "worker1")
        eventually(lambda: lab("docker", "manager", "node", "ls").count("Ready") == 3, 150, "it is back")
        traces = Traces(directory)
        assert traces.cgroups()
        assert of_lab(directory, "cumulus\0serve")
        script.kill()
        traces.are_gone()


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("the terminal is closed", marks=pytest.mark.slow),
        pytest.param("the lab is killed", marks=pytest.mark.slow),
        "its sweeper is killed, then it too",
    ],
)
def test_nothing_is_left(environment: dict[str, str], tmp_path: Path, how: str) -> None:
    output = tmp_path / "output"
    directory = environment["CUMULUS_LAB"]
    with started(environment, output) as script:
        says(script, output, b"Making a job image", 150)
        traces = Traces(directory)
        (lab,) = of_lab(directory, "tests.lab\0up")
        if how == "the terminal is closed":
            # To all that it runs in the foreground.
            os.killpg(script.pid, signal.SIGHUP)
        else:
            (sweeper,) = of_lab(directory, "tests.lab.sweep")
            if "sweeper" in how:
                os.kill(sweeper, signal.SIGKILL)
                eventually(lambda: of_lab(directory, "tests.lab.sweep") not in ([], [sweeper]), what="another sweeper")
            os.kill(lab, signal.SIGKILL)
        traces.are_gone()
        assert script.wait(PATIENCE) != 0


def test_a_reader_that_goes_away_ends_it(environment: dict[str, str]) -> None:
    script = subprocess.Popen([str(SCRIPT)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert script.stdout is not None
    assert script.stdout.readline() == b"\n"
    script.stdout.close()
    _, errors = script.communicate(timeout=150)
    assert script.returncode != 0
    assert b"Traceback" not in errors
    directory = environment["CUMULUS_LAB"]
    eventually(lambda: not of_lab(directory) and not Path(directory).exists(), 150, "nothing is left")


def test_what_was_killed_with_its_sweeper_is_removed_by_the_next_and_other_files_are_not(tmp_path: Path) -> None:
    from tests.lab import claim
    from tests.lab.node import LabError

    left = tmp_path / "lab"
    os.close(claim.take(left))
    (left / "manager").mkdir()
    held = claim.take(left)
    assert [path.name for path in left.iterdir()] == [claim.LOCK]
    with pytest.raises(LabError, match=f"a lab is up in {left}, process {os.getpid()}; end it"):
        claim.take(left)
    os.close(held)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(LabError, match="is not empty, and no lab's"):
        claim.take(tmp_path)
    assert (tmp_path / "mine").exists()


def test_help_is_the_comment_and_no_more() -> None:
    done = subprocess.run([str(SCRIPT), "help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("A real Docker Swarm of three nodes")
    assert done.stdout.endswith("VENV an environment that has Cumulus with [dev] already.\n")
