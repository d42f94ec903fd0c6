"""Which processes listen on a port, by /proc."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from cumulus.lib import listeners

LISTEN = """
import socket, sys
made = socket.create_server((sys.argv[1], int(sys.argv[2])))
print(made.getsockname()[1], flush=True)
sys.stdin.read()
"""


def mine(port: int) -> list[tuple[int, str]]:
    return listeners.addresses_of([os.getpid()], port)


@pytest.mark.parametrize(
    ("bound", "reached"), [("127.0.0.1", "127.0.0.1"), ("", "127.0.0.1"), ("127.0.0.7", "127.0.0.7")]
)
def test_our_own(bound: str, reached: str) -> None:
    with socket.create_server((bound, 0)) as made:
        port = made.getsockname()[1]
        assert mine(port) == [(socket.AF_INET, reached)]
        assert listeners.addresses_of([1], port) == []
    assert mine(port) == []


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ours_by_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as made:
        assert mine(made.getsockname()[1]) == [(socket.AF_INET6, "::1")]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_all_of_ipv6_is_ours_by_ipv4_where_nobody_else_listens() -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as made:
        port = made.getsockname()[1]
        assert mine(port) == [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]


def test_anothers_is_not_reached_and_nor_is_one_beside_it() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN, "127.0.0.1", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        assert mine(port) == []
        assert listeners.addresses_of([process.pid], port) == [(socket.AF_INET, "127.0.0.1")]
        with socket.create_server(("127.0.0.9", port)):
            # Not where the other one listens.
            assert mine(port) == [(socket.AF_INET, "127.0.0.9")]
    finally:
        process.communicate()


def test_what_is_connected_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as made, socket.create_connection(made.getsockname()) as client:
        assert mine(client.getsockname()[1]) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_whose_the_other_end_is(family: int) -> None:
    # The client asks from an address of its own: from the server's it may be given the very port of the server,
    # and be connected to itself.
    mapped = "" if family == socket.AF_INET else "::ffff:"
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(30)
        for user in (0, 65534):
            os.seteuid(user)
            asking = socket.socket(family)
            os.seteuid(0)
            asking.bind((f"{mapped}127.0.0.2", 0))
            asking.connect((f"{mapped}127.0.0.1", made.getsockname()[1]))
            connection, _ = made.accept()
            with connection:
                assert listeners.user_of(connection) == user
                asking.close()
                # Whoever has gone is nobody.
                assert listeners.user_of(connection) is None
