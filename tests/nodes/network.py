"""Networks of their own for workers: a namespace each, with one wire to it that can be cut. Needs root and iproute2."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import SHUT_WR, create_connection, create_server, socket
from time import monotonic, sleep

import pytest

PREFIX = "cumr"


class Network:
    """A namespace at an address of its own. Names hold our pid, so that leftovers can be told."""

    def __init__(self, number: int) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{number}"
        # Addresses that no other run of these tests on the machine is likely to have.
        net = f"10.{78 + os.getpid() // 60 % 32}.{os.getpid() % 60 * 4 + number}"
        self.host = f"{net}.2"
        self._outer = f"cr{os.getpid() % 100000}o{number}"
        self._inner = f"cr{os.getpid() % 100000}i{number}"
        ip("netns", "add", self.name)
        ip("link", "add", self._outer, "type", "veth", "peer", "name", self._inner, "netns", self.name)
        ip("addr", "add", f"{net}.1/30", "dev", self._outer)
        ip("link", "set", self._outer, "up")
        ip("-n", self.name, "addr", "add", f"{self.host}/30", "dev", self._inner)
        ip("-n", self.name, "link", "set", "lo", "up")
        self.heal()

    @property
    def inside(self) -> tuple[str, ...]:
        """Put before a command, it runs in the namespace. `ip netns exec` would hide the cgroups."""
        return ("nsenter", f"--net=/var/run/netns/{self.name}")

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told: connections stay open on both sides."""
        ip("-n", self.name, "link", "set", self._inner, "down")

    def heal(self) -> None:
        ip("-n", self.name, "link", "set", self._inner, "up")

    def close(self) -> None:
        """The wire goes with the namespace, once what runs in it is gone."""
        subprocess.run(["ip", "link", "del", self._outer], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


@contextmanager
def networks(count: int) -> Iterator[list[Network]]:
    """Skips the test where there can be none, and says what is missing."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    missing = [name for name in ("ip", "nsenter") if not shutil.which(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is missing: apt-get install iproute2 util-linux")
    _remove_leftovers()
    with ExitStack() as made:
        found = []
        for number in range(1, count + 1):
            try:
                network = Network(number)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
            made.callback(network.close)
            found.append(network)
        yield found


class SlowWay:
    """A TCP way to `host`:`port` on which everything takes `seconds` longer, each way."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        self._target = (host, port)
        self._seconds = seconds
        self._server = create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = create_connection(self._target)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket, sink: socket) -> None:
        # Each piece waits its time, and none waits for the piece before: a long way, not a narrow one.
        pieces: list[tuple[float, bytes]] = []
        more = threading.Condition()

        def deliver() -> None:
            while True:
                with more:
                    more.wait_for(lambda: bool(pieces))
                    due, data = pieces.pop(0)
                sleep(max(0.0, due - monotonic()))
                try:
                    if not data:
                        sink.shutdown(SHUT_WR)
                        return
                    sink.sendall(data)
                except OSError:
                    return

        threading.Thread(target=deliver, daemon=True).start()
        data = b"x"
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            with more:
                pieces.append((monotonic() + self._seconds, data))
                more.notify()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _remove_leftovers() -> None:
    """Of test runs that were killed."""
    place = Path("/var/run/netns")
    for path in place.glob(f"{PREFIX}*-*") if place.is_dir() else ():
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True)
