"""`chronos_cli serve-users`: answers the users of the machine, who can't open root's ledger, over a Unix socket.

    -> {"run": ["list", "--all"]}                             one line, and one request a connection
    <- {"code": 0, "out": "…", "err": "", "variables": {…}}   what the command prints; for `exec` what its program needs

The kernel says who asks (SO_PEERCRED). Each request is answered by a process of its own, so that one that waits, or
fails, holds up nobody else. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import io
import json
import os
import selectors
import signal
import socket
import traceback
from pathlib import Path
from typing import Any

from cumulus.chronos import cli, enforce, lease_args, names
from cumulus.chronos.contract import LeaseState, variables
from cumulus.chronos.system_ledger import SOCKET
from cumulus.chronos.user_ledger import LedgerCaller, UserLedger
from cumulus.errors import CumulusError, Forbidden, NoSuchLease, UsageError
from cumulus.lib import safe_output, unix_socket
from cumulus.lib.systemd import notify

VERBS = ("stats", "metrics", "devices", "create", "list", "get", "begin", "renew", "release", "park", "unpark", "exec")
"""What users may ask."""

MOST, MOST_OF_A_USER = 128, 8
"""Requests at once."""
LONGEST_LINE = 2**16
_READ_SECONDS, _ANSWER_SECONDS = 10, 3600
_LOOK_SECONDS = 1.0
_BUSY = {
    "code": 1,
    "out": "",
    "err": "chronos_cli: too many of your requests run now (try again later)\n",
}


def serve_users(home: Path, path: str = SOCKET, *, creators: str = "") -> int:
    """Answer at `path` until SIGTERM. `creators`: the Unix group whose members may make leases, "" for nobody.

    Raises UsageError where there is no such group, and OSError."""
    group = _group(creators)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    listening = unix_socket.listen(path, 0o666)
    listening.setblocking(False)
    busy: dict[int, int] = {}
    """Processes that answer, and the users whom they do."""
    notify(READY="1", STATUS=f"answers at {path}")
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(listening, selectors.EVENT_READ)
            while not stopped:
                selector.select(_LOOK_SECONDS)
                _reap(busy)
                with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                    _take(listening.accept()[0], listening, home, group, busy)
        return 0
    finally:
        listening.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        raise UsageError(f"there is no group {name!r}", hint=f"make it: groupadd {name}") from None


def _reap(busy: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            busy.pop(pid, None)


def _take(
    connection: socket.socket, listening: socket.socket, home: Path, creators: int | None, busy: dict[int, int]
) -> None:
    with connection:
        pid, uid, _ = unix_socket.peer(connection)
        if len(busy) >= MOST or sum(user == uid for user in busy.values()) >= MOST_OF_A_USER:
            # There is room for it: nothing was written before.
            with contextlib.suppress(OSError):
                connection.send(json.dumps(_BUSY).encode() + b"\n", socket.MSG_DONTWAIT)
            return
        child = os.fork()
        if child:
            busy[child] = uid
            return
        try:
            listening.close()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            connection.setblocking(True)
            _answer(connection, home, LedgerCaller(uid, pid), creators)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)


def _answer(connection: socket.socket, home: Path, peer: LedgerCaller, creators: int | None) -> None:
    """In a process of its own, which the alarm ends."""
    signal.alarm(_READ_SECONDS)
    line = b""
    while not line.endswith(b"\n") and len(line) <= LONGEST_LINE:
        more = connection.recv(LONGEST_LINE)
        if not more:
            return
        line += more
    signal.alarm(_ANSWER_SECONDS)
    ledger = UserLedger(home, peer, may_create=creators is not None and creators in peer.groups)
    out, err = io.StringIO(), io.StringIO()
    said: dict[str, Any] = {}
    with contextlib.redirect_stdout(safe_output.Gate(out)), contextlib.redirect_stderr(safe_output.Gate(err)):
        try:
            said["code"] = _run(line, ledger, peer, said)
        except SystemExit as error:
            said["code"] = error.code
    said |= {"out": out.getvalue(), "err": err.getvalue()}
    connection.sendall(json.dumps(said).encode() + b"\n")


def _run(line: bytes, ledger: UserLedger, peer: LedgerCaller, said: dict[str, Any]) -> int:
    as_json = False
    try:
        try:
            words = [str(word) for word in json.loads(line)["run"]]
        except (ValueError, TypeError, KeyError):
            raise UsageError('a request is {"run": [WORD, …]}') from None
        options = cli.parser(lambda home: ledger).parse_args(words)
        as_json = options.json
        if options.verb not in VERBS:
            raise Forbidden(f"only root may run chronos_cli {options.verb}", hint=f"you may run {', '.join(VERBS)}")
        if options.home is not None:
            raise UsageError("the machine's ledger alone is asked here", hint="leave --home out")
        if options.verb == "create":
            options.user = options.user or peer.name
        if options.verb == "exec":
            said["variables"] = _attach(options, ledger, peer)
            return 0
        code: int = options.run(options)
        return code
    except CumulusError as error:
        return cli.tell_error(error, as_json=as_json)


def _attach(options: argparse.Namespace, ledger: UserLedger, peer: LedgerCaller) -> dict[str, str]:
    """The process that asks becomes the lease's. What its program needs."""
    lease = ledger.get(names.meant(ledger, options.partition))
    if lease is None:
        raise NoSuchLease(f"there is no lease {options.partition}", hint="see them with: chronos_cli list --all")
    ledger.check_own(lease.id)
    device = lease_args.choose(ledger.devices(), lease.device_id)
    active = lease.state is LeaseState.ACTIVE
    prepared = enforce.environment(lease, device, ledger.home, peer.uid) if active else {}
    ledger.attach(lease.id, peer.pid, lease.token)
    return variables.of_lease(lease, device) | prepared
