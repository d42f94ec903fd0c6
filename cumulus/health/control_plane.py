"""Checks the state directory: its files, its store, and the daemons that run on it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cumulus import daemon_lock, paths
from cumulus.clock import SystemClock
from cumulus.errors import NotFound
from cumulus.health.finding import Finding
from cumulus.lib import locks
from cumulus.resources.columns import age
from cumulus.resources.key import Key
from cumulus.resources.quantity import format_bytes
from cumulus.service import diagnose, readiness
from cumulus.service.addresses import NO_GRPC, grpc_address


def state(home: Path) -> Iterator[Finding]:
    """Checks the state directory: it exists or can be made, is writable, and is private."""
    there = next(p for p in (home, *home.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        fix = "set CUMULUS_HOME to a directory that you may write, or chown this one"
        yield Finding("FAIL", "state", f"{there} cannot be written", fix)
        return
    if there != home:
        yield Finding("OK", "state", f"{home} (created on first use)")
        return
    free = shutil.disk_usage(home).free
    if free < 2**28:
        yield Finding("WARN", "state", f"{home} has only {format_bytes(free)} free", "free some disk space")
    elif home.stat().st_mode & 0o002:
        yield Finding("FAIL", "state", f"{home} can be written by everybody", f"run: chmod go-w {home}")
    elif home.stat().st_mode & 0o020:
        yield Finding("WARN", "state", f"{home} can be written by other users", f"run: chmod go-w {home}")
    else:
        yield Finding("OK", "state", f"{home}, {format_bytes(free)} free")


def store(home: Path) -> Iterator[Finding]:
    """Checks the store: it opens, every object can be read, and a write succeeds."""
    directory = paths.store_dir(home)
    if not directory.exists():
        daemon_lock.refuse_unread(home)
        yield Finding("OK", "store", f"{directory} (created on first use)")
        return
    from cumulus import stores
    from cumulus.resources.registry import KINDS
    from cumulus.store.base import Query

    daemon_lock.refuse_unread(home)
    opened = stores.open_store(directory)
    try:
        counts = [(kind, len(opened.list(Query(kind=kind.name)).items)) for kind in KINDS]
        revision = opened.revision()
        wrong = [error for _, error in diagnose.damaged(opened)]
    finally:
        opened.close()
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        fix = "free some disk space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"chown or chmod {directory}"
        yield Finding("FAIL", "store", f"{directory} cannot be written: {error.strerror}", fix)
        return
    shown = ", ".join(f"{n} {k.name.lower() if n == 1 else k.plural}" for k, n in counts if n) or "no objects"
    if wrong:
        said = f"{len(wrong)} of its objects {'is' if len(wrong) == 1 else 'are'} not valid, and ignored: {wrong[0]}"
        yield Finding("WARN", "store", f"revision {revision}, {shown}; {said}", wrong[0].hint or "")
        return
    yield Finding("OK", "store", f"revision {revision}, {shown}; all objects are readable")


def daemon(home: Path) -> Iterator[Finding]:
    """Checks whether a daemon runs here, and which one leads."""
    pid = daemon_lock.daemon_pid(home)
    if pid is None:
        yield Finding("WARN", "daemon", "no daemon runs on this state directory", "run: cumulus serve")
        return
    from cumulus import stores
    from cumulus.resources.kinds.lease import KIND, LEADER

    opened = stores.of_home(home)
    try:
        lease = opened.get(Key(KIND.name, "", LEADER))
    except NotFound:
        lease = {}
    finally:
        opened.close()
    # A stopped process keeps its lock, so it may be the one that the kernel names first.
    pids = locks.holders(paths.daemon_lock(home), shared=True) or [pid]
    yield from daemons(pids, lease, SystemClock().now())


def grpc(home: Path) -> Iterator[Finding]:
    """Checks the gRPC server of a running daemon."""
    if daemon_lock.daemon_pid(home) is None:
        yield Finding("OK", "grpc", "runs with the daemon")
    elif grpc_address.read(home) == NO_GRPC:
        yield Finding("OK", "grpc", "is off, as the daemon's settings say")
    elif problem := readiness.grpc_problem(home):
        yield Finding("WARN", "grpc", problem, "if it stays so, restart the daemon: jobs go on meanwhile")
    else:
        address = grpc_address.read(home)
        where = f" and {address.address}" if address is not None and address.address else "; no port over TLS"
        yield Finding("OK", "grpc", f"{paths.grpc_socket(home)}{where}")


def daemons(pids: Sequence[int], lease: dict[str, Any], now: datetime) -> Iterator[Finding]:
    """Who leads, and which of the daemons that run here were stopped. `lease` is the leader's document, empty where
    none ever led."""
    halted = [pid for pid in pids if locks.is_stopped(pid)]
    leader = _leader(lease)
    awake = [pid for pid in pids if pid not in halted]
    yield leadership(leader if leader in awake else (awake or pids)[0], lease, now)
    if others := [pid for pid in halted if pid != leader]:
        text = f"{locks.described(others)}: it can neither lead nor stand by"
        yield Finding("WARN", "daemon", text, locks.hint(others, ""))


def leadership(pid: int, lease: dict[str, Any], now: datetime) -> Finding:
    """Who leads, by the Lease's document, and whether it does the work. `pid` is that of a daemon that runs here."""
    spec = lease.get("spec") or {}
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if not lease:
        return Finding("OK", "daemon", f"process {pid}; no daemon leads yet")
    if not holder or not renewed:
        fix = "look again in a few seconds; if it stays so, read the daemon's log"
        return Finding("WARN", "daemon", f"process {pid}; no daemon leads: what you apply has no effect yet", fix)
    said = f"{holder} leads, renewed {age(renewed, now)} ago"
    leader = _leader(lease)
    if leader is not None and locks.is_stopped(leader):
        return Finding("FAIL", "daemon", f"{said}: {locks.described([leader])}", locks.hint([leader], ""))
    if readiness.is_late(renewed, now):
        fix = f"read the log of process {pid}; if it says nothing, restart it: jobs go on meanwhile"
        text = f"process {pid}; no daemon leads: {holder} renewed {age(renewed, now)} ago"
        return Finding("FAIL", "daemon", text, fix)
    if problem := readiness.progress_problem(lease):
        fix = "its log says what it waits for; if that does not end, restart it: jobs go on meanwhile"
        return Finding("FAIL", "daemon", f"{said}, but does not do its work: {problem}", fix)
    return Finding("OK", "daemon", f"process {pid}; {said}")


def _leader(lease: dict[str, Any]) -> int | None:
    """The pid of the process that leads, where it is one of this machine."""
    from cumulus.lib.process_identity import pid_here

    return pid_here((lease.get("spec") or {}).get("holderProcess") or "")
