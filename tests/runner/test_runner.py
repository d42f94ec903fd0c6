"""The runner on its own: a call's directory in, an outcome and a result out."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cumulus.calls import envelope
from cumulus.calls.outcome import NOT_LOADED, NOT_PICKLABLE, OUT_OF_MEMORY, RAISED, RETURNED
from cumulus.runner.build import archive, digest, ensure_runner
from tests.runner.calls import KEY, Ran, payload_of, run, zip_of

cloudpickle.register_pickle_by_value(sys.modules[__name__])

Run = Callable[..., Ran]


@pytest.fixture
def call(tmp_path: Path) -> Run:
    def call(function: Callable[..., Any], *args: Any, environment: dict[str, str] | None = None, **kwargs: Any) -> Ran:
        return run(tmp_path / "call", payload_of(function, *args, **kwargs), environment=environment)

    return call


def test_a_value_comes_back(call: Run) -> None:
    def add(a: int, b: int = 1) -> dict[str, int]:
        print("adding")
        return {"sum": a + b}

    done = call(add, 2, b=3)
    assert (done.code, done.outcome.outcome, done.value, done.out) == (0, RETURNED, {"sum": 5}, "adding\n")
    assert sorted(os.listdir(done.directory)) == ["call.json", "outcome.json", "payload", "result"]


def test_a_printed_line_is_one_write(call: Run) -> None:
    def prints() -> list[bytes]:
        import os
        import socket

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = os.dup(1)
        os.dup2(theirs.fileno(), 1)
        print("a whole", "line")
        print("and", end=" ")
        print("another")
        os.dup2(kept, 1)
        return [ours.recv(100), ours.recv(100)]

    done = call(prints, environment={"PYTHONUNBUFFERED": "1"})
    assert done.value == [b"a whole line\n", b"and another\n"]


def test_a_coroutine_is_awaited(call: Run) -> None:
    async def later() -> int:
        import asyncio

        await asyncio.sleep(0)
        return 7

    assert call(later).value == 7


def test_a_generator_is_refused_before_it_runs(call: Run) -> None:
    def numbers() -> Any:
        print("ran")
        yield 1

    done = call(numbers)
    assert (done.code, done.outcome.outcome, done.out) == (1, NOT_PICKLABLE, "")
    assert "return a list of what it yields" in done.outcome.text


class TwoArguments(Exception):
    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code
        self.where = where


def test_an_exception_comes_back_as_itself_with_its_causes(call: Run) -> None:
    def fail() -> None:
        try:
            {}["row"]
        except KeyError as error:
            raise TwoArguments(3, "here") from error

    done = call(fail)
    assert (done.code, done.outcome.outcome) == (1, RAISED)
    made = done.value
    # The class came by value: it is this process' own again.
    assert type(made) is TwoArguments
    assert (made.code, made.where, str(made)) == (3, "here", "3 at here")
    assert isinstance(made.__cause__, KeyError)
    assert made.__suppress_context__
    text = done.outcome.traceback
    assert text.startswith("Traceback (most recent call last):\n")
    assert 'raise TwoArguments(3, "here") from error' in text
    assert "direct cause" in text
    assert "cumulus/runner" not in text
    assert text in done.err


def test_an_exception_in_the_handling_of_another_keeps_it(call: Run) -> None:
    def fail() -> None:
        try:
            int("x")
        except ValueError:
            Path("/nowhere/at/all").stat()

    made = call(fail).value
    assert (type(made), made.errno, made.filename) == (FileNotFoundError, 2, "/nowhere/at/all")
    assert type(made.__context__) is ValueError
    assert made.__cause__ is None
    assert not made.__suppress_context__


def test_an_exception_that_cannot_be_rebuilt_comes_as_text(call: Run) -> None:
    def fail() -> None:
        class Locked(Exception):
            def __init__(self) -> None:
                super().__init__("no key")
                self.lock = threading.Lock()

        raise Locked

    done = call(fail)
    assert (done.code, done.outcome.outcome, done.outcome.text, done.outcome.result) == (1, RAISED, "no key", "")
    assert done.outcome.type.endswith("fail.<locals>.Locked")


def test_a_cause_that_cannot_be_rebuilt_stands_there_as_text(call: Run) -> None:
    def fail() -> None:
        cause = ValueError("no key")
        cause.lock = threading.Lock()  # type: ignore[attr-defined]
        raise KeyError("a") from cause

    made = call(fail).value
    assert type(made) is KeyError
    assert repr(made.__cause__) == "RuntimeError('builtins.ValueError: no key')"


def test_a_group_comes_back_with_its_members_as_themselves(call: Run) -> None:
    def fail() -> None:
        locked = ValueError("no key")
        locked.lock = threading.Lock()  # type: ignore[attr-defined]
        raise ExceptionGroup("all", [TwoArguments(3, "here"), ExceptionGroup("some", [KeyError("a"), locked])])

    made = call(fail).value
    assert type(made) is ExceptionGroup
    first, some = made.exceptions
    assert (type(first), str(first)) == (TwoArguments, "3 at here")
    assert [repr(each) for each in some.exceptions] == ["KeyError('a')", "RuntimeError('builtins.ValueError: no key')"]


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (75, 75), ("bye", 1), (256 + 3, 3)])
def test_sys_exit_ends_the_process_as_in_a_script(call: Run, given: Any, code: int) -> None:
    done = call(sys.exit, given)
    assert (done.code, done.outcome.outcome, done.outcome.traceback != "") == (code, RAISED, True)
    assert (type(done.value), done.value.code) == (SystemExit, given)
    assert done.err == ("bye\n" if given == "bye" else "")


def test_running_out_of_memory_is_told_with_what_was_leased(tmp_path: Path) -> None:
    def host() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
        bytearray(2**33)

    def cuda() -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    class MemoryErrorOfOpenCL(MemoryError):
        pass

    def opencl() -> None:
        raise MemoryErrorOfOpenCL("clEnqueueNDRangeKernel failed: MEM_OBJECT_ALLOCATION_FAILURE")

    leased = {"CHRONOS_MEMORY_BYTES": "1000,24"}
    done = run(tmp_path / "a", payload_of(host), environment=leased)
    assert (done.code, done.outcome.outcome, done.outcome.leased) == (1, OUT_OF_MEMORY, 2**31)
    assert done.outcome.used > 2**20
    for number, function in enumerate((cuda, opencl)):
        done = run(tmp_path / str(number), payload_of(function), environment=leased)
        assert (done.outcome.outcome, done.outcome.leased) == (OUT_OF_MEMORY, 1024)
        assert isinstance(done.value, (RuntimeError, MemoryError))


def test_what_cannot_be_pickled_is_named_with_its_place(call: Run) -> None:
    def give() -> Any:
        return {"model": [1, threading.Lock()]}

    done = call(give)
    assert (done.code, done.outcome.outcome, done.outcome.result) == (1, NOT_PICKLABLE, "")
    assert "cannot pickle '_thread.lock' object" in done.outcome.text
    assert done.outcome.text.endswith("; it is at result['model'][1], _thread.lock")
    assert not (done.directory / "result").exists()


def test_a_module_that_is_missing_is_told_before_anything_runs(tmp_path: Path) -> None:
    pickled = envelope.payload_head(KEY) + b"\x80\x05\x8c\x07nowhere\x8c\x01f\x93."
    done = run(tmp_path / "call", pickled)
    assert (done.code, done.outcome.outcome, done.outcome.type) == (1, NOT_LOADED, "builtins.ModuleNotFoundError")
    assert done.outcome.text == "No module named 'nowhere'"


@pytest.mark.parametrize("payload", [b"", b"cumulus call 2\n" + KEY, envelope.payload_head(KEY) + b"no pickle"])
def test_a_payload_that_is_none_is_told(tmp_path: Path, payload: bytes) -> None:
    done = run(tmp_path / "call", payload)
    assert (done.code, done.outcome.outcome) == (1, NOT_LOADED)


def test_another_python_is_told(tmp_path: Path) -> None:
    done = run(tmp_path / "call", payload_of(len, ""), python="3.99")
    assert done.outcome.text.startswith("the call was made by Python 3.99, and this is Python 3.")


def test_forked_children_and_threads_of_the_function_answer_nothing(call: Run) -> None:
    def forks() -> str:
        if os.fork() == 0:
            return "child"
        if os.fork() == 0:
            raise ValueError("of the child")
        if os.fork() == 0:
            sys.exit(9)
        codes = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(3))
        threading.Thread(target=lambda: time.sleep(600)).start()
        return f"parent {codes}"

    done = call(forks)
    assert (done.code, done.value) == (0, "parent [0, 1, 9]")
    assert "of the child" in done.err


def test_what_is_registered_for_the_end_runs_and_what_was_printed_is_there(call: Run) -> None:
    def last() -> None:
        import atexit

        atexit.register(print, "at the end")
        sys.stdout.write("first, ")

    assert call(last).out == "first, at the end\n"


SOURCE = """\
from helper.data import rows

def total(factor):
    return rows() * factor

def fails():
    raise LookupError("of the archive")

def reads():
    import os
    with open(os.path.join(os.path.dirname(__file__), "helper", "data.txt")) as file:
        return file.read()

def bundled():
    import cumulus.calls.envelope, cloudpickle, cumulus
    return cumulus.__version__, cumulus.calls.envelope.__file__.rsplit("/cumulus/")[0][-4:], cloudpickle.__version__
"""
FILES = {
    "work.py": SOURCE, "helper/__init__.py": "", "helper/data.py": "def rows():\n    return 3\n",
    "helper/data.txt": "text", envelope.SOURCES: json.dumps({"/gone/main.py": "first\nraise ValueError('by value')\n"}),
}  # fmt: skip


def referred(function: str, *args: int) -> bytes:
    """A payload that names a function of the archive, as any Python pickles it."""
    numbers = "".join(f"I{number}\n" for number in args)
    return envelope.payload_head(KEY) + f"(cwork\n{function}\n({numbers}t(dt.".encode()


VERSIONS = [f"3.{minor}" for minor in (9, 10, 12, 13, 14)]


def python(version: str) -> str | None:
    """In PATH, or where pyenv has it."""
    name = f"python{version}"
    for path in (shutil.which(name), *glob(f"{Path.home()}/.pyenv/versions/{version}.*/bin/{name}")):
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


@pytest.mark.parametrize("version", VERSIONS)
def test_other_pythons_run_calls(tmp_path: Path, version: str) -> None:
    interpreter = python(version)
    if interpreter is None:
        pytest.skip(f"there is no Python {version} here")
    source = zip_of(FILES)
    done = run(tmp_path / "a", referred("total", 14), python=version, interpreter=interpreter, archive=source)
    assert (done.code, done.value, done.err) == (0, 42, "")
    done = run(tmp_path / "b", referred("fails"), python=version, interpreter=interpreter, archive=source)
    assert (done.code, repr(done.value)) == (1, "LookupError('of the archive')")
    assert 'raise LookupError("of the archive")' in done.outcome.traceback


EXECUTABLES = """\
import os, stat

def executables():
    files = list(os.scandir(os.path.dirname(__file__)))
    return [file.name for file in files if file.is_file() and file.stat().st_mode & stat.S_IXUSR]
"""

WITH_SDK = """\
from cumulus.sdk import CumulusClient, LeaseExpired, gpu, remote
import sdk.client

@gpu(memory=0.5, requirements=["numpy"])
def double(number):
    return 2 * number

@remote
def both(number):
    try:
        raise LeaseExpired("over")
    except LeaseExpired:
        return double(number) + double.local(number)

def nested():
    return sdk.client.CumulusClient()
"""


def test_a_module_may_import_the_sdk_where_it_is_not_installed(tmp_path: Path) -> None:
    interpreter, version = next(((found, v) for v in VERSIONS if (found := python(v))), (None, ""))
    if interpreter is None:
        pytest.skip("there is no other Python here, which has no Cumulus installed")
    source = zip_of({"work.py": WITH_SDK})
    done = run(tmp_path / "a", referred("both", 10), python=version, interpreter=interpreter, archive=source)
    assert (done.code, done.value, done.err) == (0, 40, "")
    done = run(tmp_path / "b", referred("nested"), python=version, interpreter=interpreter, archive=source)
    assert "add cumulus-gpu to its requirements" in done.outcome.text


def test_local_source_comes_first_and_has_its_files(tmp_path: Path) -> None:
    source = zip_of(FILES)
    assert run(tmp_path / "a", referred("reads"), archive=source).value == "text"
    version, place, pickle_version = run(tmp_path / "b", referred("bundled"), archive=source).value
    assert (place, pickle_version) == (".pyz", cloudpickle.__version__)
    assert version


def test_what_may_be_executed_still_may_be(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, mode in (("tool", 0o100755), ("data", 0o100644)):
            entry = zipfile.ZipInfo(f"work/{name}")
            entry.external_attr = mode << 16
            archive.writestr(entry, "x")
        archive.writestr("work/__init__.py", EXECUTABLES)
    done = run(tmp_path / "call", referred("executables"), archive=made.getvalue())
    assert done.value == ["tool"]


def test_lines_of_code_that_came_by_value_are_in_the_traceback(tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("\ndef fails(): raise ValueError('by value')\n", "/gone/main.py", "exec"), space)
    done = run(tmp_path / "call", payload_of(space["fails"]), archive=zip_of(FILES))
    assert "    raise ValueError('by value')\n" in done.outcome.traceback


def test_an_archive_that_is_none_is_told(tmp_path: Path) -> None:
    done = run(tmp_path / "call", payload_of(len, ""), archive=b"no zip")
    assert done.outcome.text == "its source cannot be unpacked: File is not a zip file"


def test_an_archive_leaves_its_directory_alone(tmp_path: Path) -> None:
    done = run(tmp_path / "call", payload_of(len, ""), archive=zip_of({"../../out.txt": "x", "/abs.txt": "x"}))
    assert done.code == 0
    assert not (tmp_path.parent / "out.txt").exists()
    assert not (tmp_path / "out.txt").exists()


def test_the_runners_file_is_the_same_each_time_and_nobody_can_write_it(tmp_path: Path) -> None:
    first = ensure_runner(str(tmp_path))
    content = Path(first).read_bytes()
    for made in (archive, digest):
        made.cache_clear()
    assert ensure_runner(str(tmp_path)) == first
    assert os.stat(first).st_mode & 0o777 == 0o444
    assert len(content) < 2**19
    with zipfile.ZipFile(first) as file:
        names = set(file.namelist())
    assert {"__main__.py", "cumulus/runner/main.py", "cumulus/calls/outcome.py", "cloudpickle/cloudpickle.pyc"} <= names
    assert not any("build" in name or "__pycache__" in name for name in names)
