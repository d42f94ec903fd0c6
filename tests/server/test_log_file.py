from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cumulus.errors import UsageError
from cumulus.server import log_file
from cumulus.server.log_file import LogFile


def test_a_log_file_is_its_owners_and_made_with_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "home" / "serve.log"
    log = LogFile(path)
    assert not path.parent.exists()
    print("one", file=log, flush=True)
    LogFile(path).write("two\n")
    assert path.read_text() == "one\ntwo\n"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not log.isatty()


def test_a_log_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    first, second = LogFile(path, most=100), LogFile(path, most=100)
    for number in range(100):
        (first, second)[number % 2].write(f"line {number:03d}\n")
    kept = (tmp_path / "serve.log.1").read_text() + path.read_text()
    assert kept.endswith("line 098\nline 099\n")
    lines = kept.splitlines()
    assert lines == [f"line {n:03d}" for n in range(100 - len(lines), 100)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["serve.log", "serve.log.1"]
    assert path.stat().st_size <= 110


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    LogFile(tmp_path / "file" / "serve.log").write("lost\n")


def test_which_file(tmp_path: Path) -> None:
    assert log_file.chosen("-", tmp_path) is None
    named = log_file.chosen(str(tmp_path / "own.log"), tmp_path)
    assert named is not None
    print("said", file=named)
    assert (tmp_path / "own.log").read_text() == "said\n"


def test_directories_of_a_log_file_are_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"there is no directory {tmp_path}/a$"):
        log_file.chosen(str(tmp_path / "a" / "b" / "c.log"), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"there is no directory {tmp_path}/file$"):
        log_file.chosen(str(tmp_path / "file" / "c.log"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


_SCRIPT = """
import subprocess, sys
look = "import sys; from pathlib import Path; from cumulus.server.log_file import chosen, in_background; "
look += "print(in_background(), file=open(sys.argv[1], 'w')); "
look += "print('said', file=chosen('', Path('home')) or sys.stderr)"
tell = [sys.executable, "-c", look]
subprocess.run([*tell, "front"], check=True)
subprocess.run([*tell, "back"], check=True, process_group=0)
subprocess.run([*tell, "piped"], check=True, process_group=0, stderr=subprocess.DEVNULL)
"""


def test_the_background_of_a_terminal(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-c", _SCRIPT])
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert {name: (tmp_path / name).read_text() for name in ("front", "back", "piped")} == {
        "front": "False\n", "back": "True\n", "piped": "False\n",
    }  # fmt: skip
    assert (tmp_path / "home" / "serve.log").read_text() == "said\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("program", ["cumulus.cli.command_client", "cumulus.chronos.cli"])
def test_closed_descriptors_are_no_error(home: Path, program: str, closed: str) -> None:
    arguments = ["get", "jobs"] if program == "cumulus.cli.command_client" else ["list"]
    code = f"import sys; from {program} import main; sys.exit(main())"
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if closed == "2>&-":
        # What is for stderr must not be taken for a result.
        assert "There is no store" not in done.stdout
