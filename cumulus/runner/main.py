"""The program: PYTHON runner.pyz CALL_DIRECTORY. Its exit code is that of a script with the function in it."""

from __future__ import annotations

import atexit
import io
import json
import linecache
import os
import sys
from typing import BinaryIO, NoReturn

from cumulus.calls.envelope import ARCHIVE, CALL, OUTCOME, PAYLOAD, RELAY, RESULT, SOURCES, Envelope
from cumulus.calls.outcome import NOT_LOADED, Outcome
from cumulus.runner import standin

_SOURCE = "source"
"""Where the local source is unpacked, beside the archive."""


def main(arguments: list[str]) -> NoReturn:
    """Run the call in the directory `arguments[0]`, then end, whatever threads the function left running. With RELAY
    behind it, carry a connection to the session that runs there."""
    directory = os.path.abspath(arguments[0])
    if arguments[1:] == [RELAY]:
        from cumulus.runner.relay import relay

        os._exit(relay(directory))
    os.umask(0o077)
    _write_whole_lines()
    with open(os.path.join(directory, CALL), "rb") as file:
        envelope = Envelope.read(file.read())
    _end(_run(directory, envelope))


def _write_whole_lines() -> None:
    """A line that is printed is one write, as on a terminal. PYTHONUNBUFFERED, which jobs get, writes its end apart:
    lines of two threads would stand in one another."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.write_through:
            stream.reconfigure(line_buffering=True, write_through=False)


def _run(directory: str, envelope: Envelope) -> int:
    """Write the answer and return the exit code."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here != envelope.python:
        text = f"the call was made by Python {envelope.python}, and this is Python {here}, {sys.executable}"
        sys.stderr.write(f"{text}\n")
        _write(directory, OUTCOME, Outcome(NOT_LOADED, text=text).to_json())
        return 1
    try:
        _prepare_path(directory)
    except Exception as error:
        # A zip can be broken in many ways.
        text = f"its source cannot be unpacked: {error}"
        sys.stderr.write(f"{text}\n")
        _write(directory, OUTCOME, Outcome(NOT_LOADED, text=text).to_json())
        return 1
    # After the check of the version: a Python that is too old for cloudpickle gets to say so.
    from cumulus.runner.calling import answer

    temporary = os.path.join(directory, f".{RESULT}.{os.getpid()}")
    with open(os.path.join(directory, PAYLOAD), "rb") as payload, open(temporary, "w+b") as result:
        answered = answer(payload, envelope.payload, result, directory)
    if envelope.session and answered.exit_code == 0:
        from cumulus.runner.serving import serve

        serve(directory, _answer_and_flush)
    _flush()
    if answered.outcome.result:
        os.rename(temporary, os.path.join(directory, RESULT))
    else:
        os.unlink(temporary)
    _write(directory, OUTCOME, answered.outcome.to_json())
    return answered.exit_code


def _answer_and_flush(payload: BinaryIO, digest: str, result: BinaryIO) -> Outcome:
    from cumulus.runner.calling import answer

    try:
        return answer(payload, digest, result).outcome
    finally:
        _flush()


def _prepare_path(directory: str) -> None:
    """The local source first; this file last, for what the function imports of `cumulus.checkpoint`."""
    own = sys.path.pop(0)
    sys.path.append(own)
    sys.argv[:] = [""]
    standin.install()
    archive = os.path.join(directory, ARCHIVE)
    if not os.path.exists(archive):
        return
    source = os.path.join(directory, _SOURCE)
    _unpack(archive, source)
    sys.path.insert(0, source)
    try:
        with open(os.path.join(source, SOURCES), encoding="utf-8") as text:
            for name, lines in json.load(text).items():
                linecache.cache[str(name)] = (len(lines), None, str(lines).splitlines(True), str(name))
    except (FileNotFoundError, AttributeError, TypeError):
        return


def _unpack(archive: str, into: str) -> None:
    """As `extractall` of the library, but in two thirds of its time, and what may be executed still may be."""
    import zipfile

    made = set()
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            parts = [part for part in entry.filename.split("/") if part not in ("", ".", "..")]
            path = os.path.join(into, *parts)
            parent = path if entry.is_dir() else os.path.dirname(path)
            if parent not in made:
                os.makedirs(parent, exist_ok=True)
                made.add(parent)
            if entry.is_dir():
                continue
            mode = 0o777 if entry.external_attr >> 16 & 0o100 else 0o666
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with open(descriptor, "wb", buffering=0) as target:
                content = memoryview(file.read(entry))
                while content:
                    content = content[target.write(content) :]


def _write(directory: str, name: str, content: bytes) -> None:
    """There whole or not at all."""
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
    os.rename(temporary, os.path.join(directory, name))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue


def _end(code: int) -> NoReturn:
    """The call is over: what is registered for the end runs, and threads that go on are not waited for."""
    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    _flush()
    os._exit(code)
