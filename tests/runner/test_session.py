"""A session: one process answers calls one after another, and what they keep lives on."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cumulus.calls import envelope
from cumulus.calls.outcome import NOT_PICKLABLE, RAISED, RETURNED, Outcome, verify
from cumulus.calls.session import SessionConnection, SessionEnded, connect
from cumulus.lib import unix_socket
from tests.runner.calls import KEY, payload_of, prepare
from tests.waiting import PATIENCE, eventually

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Served:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        command = [sys.executable, *prepare(directory, payload_of(begin), session=True)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.printed: list[str] = []
        self.reads = threading.Event()
        self.reads.set()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        eventually(lambda: (directory / envelope.SOCKET).exists() or self.process.poll() is not None)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.reads.wait()
            self.printed.append(line)

    def connect(self) -> SessionConnection:
        return connect(str(self.directory), os.getuid(), 60)

    def outcome(self) -> Outcome:
        return Outcome.read((self.directory / envelope.OUTCOME).read_bytes())


def begin() -> str:
    import builtins

    builtins.kept = []  # type: ignore[attr-defined]
    return "begun"


def keep(value: Any) -> tuple[int, list[Any]]:
    import builtins

    builtins.kept.append(value)  # type: ignore[attr-defined]
    print("kept", value)
    return os.getpid(), builtins.kept  # type: ignore[attr-defined]


def ask(session: SessionConnection, function: Any, *args: Any) -> Any:
    # A client gives each call a key of its own.
    payload = payload_of(function, *args) + os.urandom(8)
    outcome, size, chunks = session.call(len(payload), [payload[:100], payload[100:]])
    result = b"".join(chunks)
    assert len(result) == size
    if not result:
        return outcome
    assert verify(KEY, hashlib.sha256(payload).hexdigest(), outcome)
    assert hashlib.sha256(result).hexdigest() == outcome.result
    return pickle.loads(result)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "call")
    yield made
    made.process.kill()
    made.reader.join()
    made.process.wait()
    assert made.process.stdout is not None
    made.process.stdout.close()


def test_calls_run_one_after_another_in_one_process_that_keeps_its_state(served: Served) -> None:
    first, second = served.connect(), served.connect()
    pid = served.process.pid
    assert ask(first, keep, 1) == (pid, [1])
    assert ask(second, keep, 2) == (pid, [1, 2])
    assert (served.directory / envelope.SOCKET).stat().st_mode & 0o777 == 0o600

    def fail() -> None:
        raise KeyError("k")

    error = ask(first, fail)
    assert (type(error), error.args) == (KeyError, ("k",))
    assert type(ask(first, sys.exit, 3)) is SystemExit
    assert ask(first, threading.Lock).outcome == NOT_PICKLABLE
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(ask(served.connect(), keep, n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(kept) for _, kept in answers) == list(range(3, 11))
    assert not (served.directory / envelope.OUTCOME).exists()
    first.close_session()
    assert served.process.wait(PATIENCE) == 0
    assert (served.outcome().outcome, pickle.loads((served.directory / envelope.RESULT).read_bytes())) == (
        RETURNED,
        "begun",
    )
    served.reader.join()
    assert served.printed[:2] == ["kept 1\n", "kept 2\n"]
    for session in (first, second):
        with pytest.raises(SessionEnded):
            ask(session, keep, 0)
        session.close()
    with pytest.raises(SessionEnded):
        served.connect()


def test_an_answer_waits_until_what_the_call_printed_was_read(served: Served) -> None:
    """Who has the answer may end the session, and the rest of its output with it."""
    with closing(served.connect()) as session:
        ask(session, print, "before")
        eventually(lambda: served.printed == ["before\n"])
        served.reads.clear()
        ask(session, print, "held by the reader")
        threading.Timer(0.2, served.reads.set).start()
        ask(session, print, "after")
        assert served.printed[:2] == ["before\n", "held by the reader\n"]


def test_who_sends_nonsense_or_breaks_off_is_let_go(served: Served) -> None:
    good = served.connect()
    head = struct.Struct(">cQ")
    for sent in (
        b"GET / HTTP/1.1\r\n\r\n",
        head.pack(b"C", 2**63),
        head.pack(b"O", 1),
        b"C",
        head.pack(b"C", 9) + b"abc",
    ):
        with unix_socket.connect(str(served.directory / envelope.SOCKET), 60) as bad:
            bad.sendall(sent)
            bad.shutdown(socket.SHUT_WR)
            assert bad.recv(1) == b""
    broken = served.connect()
    payload = payload_of(keep, "gone")
    broken._connection.sendall(head.pack(b"C", len(payload)) + payload)
    broken.close()
    # It ran all the same: calls come to their end in the order in which they came.
    # Each look is another call: one that comes again is answered as before.
    looks = itertools.count()
    eventually(lambda: "gone" in ask(good, keep, next(looks))[1])
    good.close()


def test_a_first_call_that_raises_ends_the_session(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("no data")

    directory = tmp_path / "call"
    done = subprocess.run([sys.executable, *prepare(directory, payload_of(fail), session=True)], capture_output=True)
    assert done.returncode == 1
    assert Outcome.read((directory / envelope.OUTCOME).read_bytes()).outcome == RAISED


def test_a_session_that_is_ended_leaves_no_outcome(served: Served) -> None:
    session = served.connect()
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(PATIENCE)
    with pytest.raises(SessionEnded):
        ask(session, keep, 1)
    session.close()
    assert not (served.directory / envelope.OUTCOME).exists()


def test_nothing_is_sent_to_another_users_process(tmp_path: Path) -> None:
    with unix_socket.listen(str(tmp_path / envelope.SOCKET)):
        connect(str(tmp_path), os.getuid()).close()
        with pytest.raises(SessionEnded, match=r"another user's process"):
            connect(str(tmp_path), os.getuid() + 1)
    with pytest.raises(SessionEnded, match=r"has not begun"):
        connect(str(tmp_path / "nowhere"))
