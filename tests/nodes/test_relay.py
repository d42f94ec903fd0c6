"""A connection to a command on a node carries bytes both ways, and ends when either side does."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from cumulus.errors import NodeUnreachable
from cumulus.nodes.connection import NodeConnection
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.relay import relay
from tests.nodes.conftest import PATIENT, Worker
from tests.waiting import eventually

pytestmark = pytest.mark.ssh


def made(worker: Worker, known_hosts: KnownHosts, *, known: bool = True) -> NodeConnection:
    if known:
        known_hosts.add(worker.address, fetch(worker.address, 5))
    return NodeConnection("gpu-1", worker.address, known_hosts, key_path=worker.key_path, waits=PATIENT)


def all_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_bytes_go_both_ways(worker: Worker, known_hosts: KnownHosts) -> None:
    data = os.urandom(3_000_000)
    with relay(made(worker, known_hosts), "cat") as connection:

        def send() -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert all_of(connection) == data
        sender.join()
    eventually(lambda: worker.sessions() == [], what="the command and its session ended")


def test_a_command_that_ends_ends_the_connection(worker: Worker, known_hosts: KnownHosts) -> None:
    with relay(made(worker, known_hosts), "printf bye") as connection:
        assert all_of(connection) == b"bye"
    eventually(lambda: worker.sessions() == [])


def test_who_goes_while_the_command_takes_no_more_ends_the_connection(worker: Worker, known_hosts: KnownHosts) -> None:
    connection = relay(made(worker, known_hosts), "sleep 600")
    connection.settimeout(1)
    with pytest.raises(TimeoutError):
        connection.sendall(bytes(16 * 2**20))
    assert worker.sessions() != []
    connection.close()
    eventually(lambda: worker.sessions() == [], what="the session ended before the command")


def test_a_node_that_lets_nobody_in_is_told(worker: Worker, known_hosts: KnownHosts) -> None:
    with pytest.raises(NodeUnreachable):
        relay(made(worker, known_hosts, known=False), "cat")
