"""`cumulus port-forward`: ports of a job on this machine's own loopback."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, NamedTuple

import typer

from cumulus.cli import completion, context, options, terminal
from cumulus.cli.verbs.exec import Replica, job_key
from cumulus.client.base import Client
from cumulus.errors import CumulusError, UsageError
from cumulus.lib import listeners
from cumulus.resources.key import Key
from cumulus.resources.registry import BY_NAME

LOOPBACK = "127.0.0.1"


class Forward(NamedTuple):
    """A port here, 0 for any that is free, and one of the job."""

    local: int
    remote: int


def port_forward(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB [LOCAL:]PORT…",
            help="The job, then its ports.",
            autocompletion=completion.jobs,
            show_default=False,
        ),
    ],
    replica: Replica = 0,
    namespace: options.Namespace = "",
) -> None:
    """Reach a port of a running job at this machine's loopback.

    Only ports at which a process of the job listens are reached. Nobody else gets in: the job's port is opened nowhere,
    and here it is at 127.0.0.1 alone, until Ctrl-C. On Linux other users of this machine are turned away there.

    \b
    Examples:
      cumulus port-forward notebook 8888
      cumulus port-forward train 9000:6006 8265
    """
    if len(words) < 2:
        raise UsageError("name a job and a port", hint="as in: cumulus port-forward notebook 8888")
    key, forwards = job_key(words[0], namespace), [_forward(word) for word in words[1:]]
    with ExitStack() as stack:
        listening = [(each, stack.enter_context(_listen(each.local))) for each in forwards]
        client = stack.enter_context(context.client())
        # Whoever may not learns it now.
        if BY_NAME[key.kind].over(client.get(key)):
            raise CumulusError(
                f"gpujob/{key.name} has ended: nothing listens there", hint=f"run it again: cumulus rerun {key.name}"
            )
        for each, made in listening:
            terminal.note(f"{LOOPBACK}:{made.getsockname()[1]} leads to port {each.remote} of gpujob/{key.name}.")
        serve(client, key, replica, [(each.remote, made) for each, made in listening])


@contextmanager
def beside(key: Key, ports: Sequence[int], *, here: bool) -> Iterator[None]:
    """Forward these ports of a job while the block runs. `here`: the job runs on this machine, where its ports are
    there already: it is only said how to reach them from another one."""
    if not ports or here:
        if ports:
            words = " ".join(map(str, ports))
            terminal.note(f"From another machine: cumulus port-forward {key.name} {words}")
        yield
        return
    with ExitStack() as stack:
        listening = [(port, stack.enter_context(_listen_near(port))) for port in ports]
        for port, made in listening:
            terminal.note(f"http://{LOOPBACK}:{made.getsockname()[1]} leads to port {port}, once it listens there.")
        client = stack.enter_context(context.client())
        threading.Thread(target=serve, args=(client, key, 0, listening), daemon=True).start()
        yield


def number(word: str) -> int:
    """A port. Raises UsageError."""
    return _forward(word).remote


def _listen_near(port: int) -> socket.socket:
    """At the port, or at another one where that is taken."""
    try:
        return _listen(port)
    except CumulusError:
        return _listen(0)


def serve(client: Client, key: Key, replica: int, listening: Sequence[tuple[int, socket.socket]]) -> None:
    """Take connections and carry them to ports of the job, until Ctrl-C."""
    ports = {made.fileno(): (port, made) for port, made in listening}
    while True:
        readable, _, _ = select.select(list(ports), [], [])
        for descriptor in readable:
            port, made = ports[descriptor]
            connection, _ = made.accept()
            if not _is_ours(connection):
                connection.close()
                terminal.warning(f"another user of this machine asked for port {port}, and was turned away")
                continue
            threading.Thread(target=_carry, args=(client, key, replica, port, connection), daemon=True).start()


def _is_ours(connection: socket.socket) -> bool:
    """Whether this user, or root, is at the other end. Everybody on the machine comes as far as its loopback."""
    if sys.platform != "linux":
        return True
    try:
        return listeners.user_of(connection) in (0, os.geteuid())
    except OSError:
        # It is gone already.
        return False


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise CumulusError(
            # Python adds the address to the system's words.
            f"port {port} of {LOOPBACK} can't be used: {os.strerror(error.errno or 0)}",
            hint="LOCAL:PORT names another",
        ) from None


def _carry(client: Client, key: Key, replica: int, port: int, connection: socket.socket) -> None:
    with connection:
        try:
            client.forward(key, replica, port, connection)
        except CumulusError as error:
            terminal.warning(str(error))


def _forward(word: str) -> Forward:
    local, colon, remote = word.rpartition(":")
    numbers = [local, remote] if colon else [remote, remote]
    for number in numbers:
        if not (number.isascii() and number.isdecimal() and int(number) < 2**16):
            raise UsageError(f"{word!r} names no port: write PORT or LOCAL:PORT, numbers from 1 to 65535")
    if int(numbers[1]) == 0:
        raise UsageError("a job has no port 0")
    return Forward(int(numbers[0]), int(numbers[1]))
