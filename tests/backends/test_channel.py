"""The daemon's end of a channel, with a node that says what a test wants."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cumulus.backends import channel
from cumulus.errors import BackendError, NotRunning, UsageError
from cumulus.lib.execution import ExecRequest, Execution
from cumulus.lib.run_channel import (
    ENDED,
    GREETING,
    REFUSED,
    REQUEST,
    SIZE,
    STARTED,
    STDERR,
    STDIN,
    STDOUT,
    Frame,
    Frames,
)
from tests.waiting import PATIENCE

WHOSE = {"slot": "default.train", "label": "a=b"}
Node = Callable[[Frames], None]


@contextlib.contextmanager
def node(acts: Node, greeting: bytes = GREETING) -> Iterator[socket.socket]:
    """The near end of a channel whose far end greets and then acts; it is closed once that returns."""
    near, far = socket.socketpair()

    def run() -> None:
        with far:
            far.sendall(greeting)
            frames = Frames(far.fileno(), far.fileno())
            acts(frames)
            while frames.waiting and not frames.ended:
                select.select([], [far], [], 10)
                frames.flush()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield near
    thread.join(PATIENCE)
    assert not thread.is_alive()


def all_heard(frames: Frames, kind: bytes) -> Iterator[Frame]:
    """The frames of that kind, until the daemon has gone."""
    while not frames.ended:
        select.select([frames.source], [], [], 10)
        yield from (frame for frame in frames.take() if frame.kind == kind)


def heard(frames: Frames, kind: bytes) -> Frame | None:
    """The next frame of that kind; None where the daemon has gone. Others that come with it are lost."""
    return next(all_heard(frames, kind), None)


def begin(near: socket.socket, *, stdin: bool = False, terminal: str = "") -> Execution:
    return channel.execution(near, WHOSE, ExecRequest(("cat",), stdin, terminal))


def test_a_program_its_streams_and_its_end() -> None:
    def acts(frames: Frames) -> None:
        asked = heard(frames, REQUEST)
        assert asked is not None
        assert asked.json() == {
            **WHOSE, "exec": {"command": ["cat"], "stdin": True, "terminal": "", "columns": 0, "rows": 0},
        }  # fmt: skip
        frames.put(STARTED)
        frames.put(STDERR, b"problems")
        for typed in all_heard(frames, STDIN):
            if not typed.data:
                break
            frames.put(STDOUT, typed.data)
        frames.put_json(ENDED, [7, ""])

    # Whatever a log-in writes first is left out.
    with node(acts, b"Welcome!\n" + GREETING) as near:
        made = begin(near, stdin=True)
        os.write(made.stdin, b"a" * 50_000)
        made.close_stdin()
        os.set_blocking(made.stdout, True)
        written = b"".join(iter(lambda: os.read(made.stdout, 65536), b""))
        assert select.select([made.done], [], [], 10)[0]
        assert (made.exit().code, written, os.read(made.stderr, 99)) == (7, b"a" * 50_000, b"problems")
        made.close()


def test_what_a_slow_reader_has_not_read_waits() -> None:
    size = 3 * 2**20

    def acts(frames: Frames) -> None:
        heard(frames, REQUEST)
        frames.put(STARTED)
        for _ in range(size // 2**16):
            frames.put(STDOUT, b"x" * 2**16)
        frames.put_json(ENDED, [0, ""])

    with node(acts) as near:
        made = begin(near)
        os.set_blocking(made.stdout, True)
        assert sum(len(data) for data in iter(lambda: os.read(made.stdout, 65536), b"")) == size
        assert made.exit().code == 0
        made.close()


def test_sizes_of_a_terminal_and_who_lets_go() -> None:
    sizes: list[object] = []
    sized, gone = threading.Event(), threading.Event()

    def acts(frames: Frames) -> None:
        heard(frames, REQUEST)
        frames.put(STARTED)
        found = heard(frames, SIZE)
        sizes.append(found and found.json())
        sized.set()
        assert heard(frames, ENDED) is None
        gone.set()

    with node(acts) as near:
        made = begin(near, terminal="vt100")
        assert made.stderr == -1
        made.resize(90, 30)
        assert sized.wait(PATIENCE)
        made.close()
        assert gone.wait(PATIENCE)
    assert sizes == [[90, 30]]


@pytest.mark.parametrize(
    ("greeting", "acts", "kind", "words"),
    [
        (b"sudo: a password is required\n", lambda frames: None, BackendError, "sudo: a password is required"),
        (b"", lambda frames: None, BackendError, "no word why"),
        (GREETING, lambda frames: frames.put_json(REFUSED, ["NotRunning", "has\x1b ended"]), NotRunning, "has.* ended"),
        (GREETING, lambda frames: frames.put_json(REFUSED, ["Other", "full"]), BackendError, "full"),
        (GREETING, lambda frames: frames.put(REFUSED, b"nonsense"), BackendError, "in a way unknown"),
        (GREETING, lambda frames: frames.put(REFUSED, b"5"), BackendError, "in a way unknown"),
        (GREETING, lambda frames: frames.put(REFUSED, b"[" * 200_000), BackendError, "in a way unknown"),
        (GREETING, lambda frames: frames.put_json(REFUSED, ["", "x" * 2**20]), BackendError, "^x{1000}$"),
        (GREETING + b"Traceback", lambda frames: None, BackendError, "Traceback"),
    ],
)  # fmt: skip
def test_what_a_node_says_instead(greeting: bytes, acts: Node, kind: type[Exception], words: str) -> None:
    with node(acts, greeting) as near, pytest.raises(kind, match=words) as told:
        begin(near)
    assert "\x1b" not in str(told.value)


def test_a_long_command_goes_over_whole_and_one_too_long_does_not() -> None:
    asked: list[Frame | None] = []

    def acts(frames: Frames) -> None:
        asked.append(heard(frames, REQUEST))
        frames.put(STARTED)
        frames.put_json(ENDED, [0, ""])

    with node(acts) as near:
        made = channel.execution(near, WHOSE, ExecRequest(("x" * 900_000,)))
        assert select.select([made.done], [], [], 10)[0]
        made.close()
    assert asked[0] is not None
    assert len(asked[0].data) > 900_000
    with node(lambda frames: None) as near, pytest.raises(UsageError, match="too long"):
        channel.execution(near, WHOSE, ExecRequest(("x" * 2**20,)))


def test_a_node_that_goes_away() -> None:
    def acts(frames: Frames) -> None:
        heard(frames, REQUEST)
        frames.put(STARTED)
        frames.put(STDOUT, b"half")

    with node(acts) as near:
        made = begin(near)
        assert select.select([made.done], [], [], 10)[0]
        assert (made.exit().code, os.read(made.stdout, 99)) == (None, b"half")
        assert "broke" in made.exit().message
        made.close()


@pytest.mark.parametrize("said", [b"5", b"[Infinity, 0]", b"[" * 200_000, b'{"a": 1}', b"[{}, 0]"])
def test_an_end_that_is_none(said: bytes) -> None:
    def acts(frames: Frames) -> None:
        heard(frames, REQUEST)
        frames.put(STARTED)
        frames.put(ENDED, said)

    with node(acts) as near:
        made = begin(near)
        assert select.select([made.done], [], [], 10)[0]
        assert made.exit().code is None
        assert "broke" in made.exit().message
        made.close()


def test_a_connection_to_a_port() -> None:
    def acts(frames: Frames) -> None:
        asked = heard(frames, REQUEST)
        assert asked is not None
        assert asked.json() == {**WHOSE, "connect": 8888}
        frames.put(STARTED)
        for typed in all_heard(frames, STDIN):
            if not typed.data:
                break
            frames.put(STDOUT, typed.data.upper())

    with node(acts) as near, channel.connected(near, WHOSE, 8888) as made:
        made.settimeout(10)
        made.sendall(b"hello")
        assert made.recv(99) == b"HELLO"
        made.shutdown(socket.SHUT_WR)
        assert made.recv(99) == b""


def test_a_program_does_what_it_was_told_last_before_it_is_let_go_of() -> None:
    done: list[bytes] = []

    def acts(frames: Frames) -> None:
        heard(frames, REQUEST)
        frames.put(STARTED)
        for typed in all_heard(frames, STDIN):
            done.append(typed.data)
            if not typed.data:
                # As a program that takes its time.
                assert not select.select([frames.source], [], [], 0.3)[0] or not frames.take()
                assert not frames.ended
                break
        frames.put_json(ENDED, [0, ""])

    with node(acts) as near:
        made = channel.talk(near, WHOSE, ExecRequest(("relay",), stdin=True))
        made.sendall(b"close")
        made.close()
    assert done == [b"close", b""]


def test_who_closes_a_connection_to_a_port_lets_go_of_it() -> None:
    def acts(frames: Frames) -> None:
        heard(frames, REQUEST)
        frames.put(STARTED)
        while heard(frames, STDIN) is not None:
            pass

    with node(acts) as near:
        channel.connected(near, WHOSE, 8888).close()
