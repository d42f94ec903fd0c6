"""Exact accounting after a round: from what the jobs wrote down, the ledger's audit log, and the store.

Each check returns the promises it found broken, one line each.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cumulus import paths
from cumulus.chronos.ledger import Ledger
from cumulus.clock import parse_timestamp
from cumulus.store.backup import restore
from cumulus.store.base import Query
from cumulus.store.schema import FILE
from cumulus.store.sqlite import SqliteStore
from tests.commands import CHRONOS_CLI
from tests.crash.jobs import Record, read_records
from tests.crash.world import World, kill
from tests.waiting import PATIENCE, poll

if TYPE_CHECKING:
    from tests.crash.loop import Round, Wish

Documents = Sequence[dict[str, Any]]

ROUGH = 0.05
"""Seconds by which the jobs' clock (the kernel's uptime to 10 ms) and the audit log's wall clock may differ."""


def unfinished(jobs: Documents) -> Iterator[str]:
    for job in jobs:
        status = job.get("status") or {}
        if job["metadata"].get("deletionTimestamp"):
            yield f"job {job['metadata']['name']} is still being deleted"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            last = (status.get("attempts") or [{}])[-1]
            yield f"job {job['metadata']['name']} is {status.get('phase')}, {last} {job['metadata']}"


def unended(partitions: Documents) -> Iterator[str]:
    for partition in partitions:
        phase = (partition.get("status") or {}).get("phase")
        owned = partition["metadata"].get("ownerReferences")
        if partition["metadata"].get("deletionTimestamp"):
            yield f"partition {partition['metadata']['name']} is still being deleted"
        elif not owned and phase not in ("Expired", "Released", "Failed"):
            yield f"partition {partition['metadata']['name']} is {phase}"


def check(round: Round) -> list[str]:
    """Everything that can be told once all is settled and before anything is cleared away."""
    jobs = {job["metadata"]["name"]: job for job in round.documents("GPUJob")}
    partitions = {p["metadata"]["name"]: p for p in round.documents("GPUPartition")}
    records = list(read_records(round.world.records))
    by_job: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_job[record.job].append(record)
    found = list(_started_once(records))
    for wish in round.wishes:
        found += _wish(wish, jobs if wish.script else partitions)
        job = jobs.get(wish.name)
        if wish.script is not None:
            if job is not None:
                found += _job(wish, job, by_job[wish.name])
            elif not wish.created and not wish.delete_tried and by_job[wish.name]:
                found.append(f"{wish.name}: not there, and yet it ran")
    for name in by_job.keys() - {wish.name for wish in round.wishes}:
        found.append(f"{name}: ran, and nobody wished it")
    audit, more = read_audit(round.world)
    found += [*more, *_shares(round, audit), *_within_leases(records, audit), *_own_overlap(records, audit)]
    for file, there in round.backups:
        found += _backup(round.world, file, there)
    return found


def _started_once(records: Iterable[Record]) -> Iterator[str]:
    for (job, attempt, replica), times in Counter(
        (r.job, r.attempt, r.replica) for r in records if r.what == "start"
    ).items():
        if times > 1:
            yield f"{job}: attempt {attempt}, replica {replica} was started {times} times"


def _wish(wish: Wish, there: dict[str, dict[str, Any]]) -> Iterator[str]:
    found = there.get(wish.name)
    if found is None:
        if wish.created and not wish.delete_tried:
            yield f"{wish.name}: its apply was acknowledged, and it is not there"
    elif wish.deleted:
        yield f"{wish.name}: its delete was acknowledged, and it is there: {found['metadata']}"
    elif found["metadata"].get("deletionTimestamp"):
        yield f"{wish.name}: is being deleted without an end: {found['metadata']}"
    elif found["spec"].get("priority", 0) not in wish.priority:
        yield f"{wish.name}: has priority {found['spec'].get('priority', 0)}, asked was one of {wish.priority}"


def _job(wish: Wish, job: dict[str, Any], records: list[Record]) -> Iterator[str]:
    script, status = wish.script, job["status"]
    assert script is not None
    where = f"{wish.name} ({script.name})"
    if status["phase"] != script.ends:
        yield f"{where}: ended {status['phase']}, its script says {script.ends}: {status['attempts'][-1]}"
        return
    last = status["attempts"][-1]
    if script.ends == "Failed" and last["reason"] != script.reason:
        yield f"{where}: failed for {last['reason']}, its script says {script.reason}: {last}"
    attempts = {r.attempt for r in records}
    if attempts and max(attempts) > status["attemptCount"]:
        yield f"{where}: attempt {max(attempts)} ran, the status counts {status['attemptCount']}"
    if script.name == "bad":
        failed = {r.attempt for r in records if r.what == "end"}
        if status["failures"] != script.limit + 1 or len(failed) < status["failures"]:
            yield f"{where}: {status['failures']} failures counted, {len(failed)} recorded, {script.limit + 1} allowed"
    if script.ends == "Succeeded":
        ends = Counter(r.replica for r in records if (r.what, r.attempt, r.code) == ("end", last["number"], "0"))
        if ends != dict.fromkeys(range(script.replicas), 1):
            yield f"{where}: succeeded in attempt {last['number']}, of which these replicas ended well: {dict(ends)}"
    seen: dict[int, tuple[float, float]] = {}
    for r in records:
        first, latest = seen.get(r.attempt, (r.uptime, r.uptime))
        seen[r.attempt] = min(first, r.uptime), max(latest, r.uptime)
    numbers = sorted(seen)
    for before, after in itertools.pairwise(numbers):
        if seen[after][0] < seen[before][1]:
            yield f"{where}: attempt {after} began at {seen[after][0]}, attempt {before} lived until {seen[before][1]}"


class Audit:
    """The life of one lease as the audit log tells it. Times are wall-clock."""

    def __init__(self, granted: dict[str, Any]) -> None:
        self.id: str = granted["lease"]
        self.user: str = granted["user"]
        self.memory: int = granted["memoryBytes"]
        self.compute: float = granted["computePercent"]
        self.granted: datetime = parse_timestamp(granted["time"])
        self.ended: datetime | None = None
        self.reason = ""


def read_audit(world: World) -> tuple[dict[str, Audit], list[str]]:
    """All leases ever granted, from the whole audit log, and what is wrong with that log or with what it tells."""
    ledger = Ledger(world.chronos, start_monitor=False)
    try:
        capacity = {device.id: device.memory_bytes for device in ledger.devices()}
    finally:
        ledger.close()
    lines: list[dict[str, Any]] = []

    def flushed() -> bool:
        """The monitor writes the last lines out within a second."""
        with sqlite3.connect(world.chronos / "ledger.db") as db:
            waiting = db.execute("SELECT EXISTS (SELECT 1 FROM audit WHERE event <> '')").fetchone()[0]
        # After that: what is written out in between would be in neither.
        lines[:] = list(_audit_lines(world.chronos))
        return not waiting

    found = [] if poll(flushed, PATIENCE) else ["audit: lines wait in the ledger without end"]
    if [line["seq"] for line in lines] != list(range(1, len(lines) + 1)):
        found.append(f"audit: lines are missing or doubled among {len(lines)}")
    leases: dict[str, Audit] = {}
    memory, compute, token = Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        device, id = line["deviceId"], line["lease"]
        if line["event"] == "granted":
            if id in leases:
                found.append(f"audit: lease {id} was granted twice")
            leases[id] = Audit(line)
            memory[device] += line["memoryBytes"]
            compute[device] += round(line["computePercent"] * 10)
            if memory[device] > capacity[device] or compute[device] > 1000:
                found.append(f"audit: over 100 % of {device} with lease {id}, line {line['seq']}")
            if line["token"] <= token[device]:
                found.append(f"audit: lease {id} has token {line['token']} after {token[device]}")
            token[device] = line["token"]
        elif line["event"] in ("released", "expired"):
            lease = leases.get(id)
            if lease is None or lease.ended is not None:
                found.append(f"audit: lease {id} ended twice, or was never granted")
                continue
            lease.ended, lease.reason = parse_timestamp(line["time"]), line["event"]
            memory[device] -= line["memoryBytes"]
            compute[device] -= round(line["computePercent"] * 10)
    return leases, found


def _audit_lines(home: Path) -> Iterator[dict[str, Any]]:
    for number in (5, 4, 3, 2, 1, 0):
        file = home / (f"audit.log.{number}" if number else "audit.log")
        if file.exists():
            for line in file.read_text().splitlines():
                yield json.loads(line)


def _shares(round: Round, audit: dict[str, Audit]) -> Iterator[str]:
    for share in round.shares:
        lease = audit.get(share.id)
        if share.created and lease is None:
            yield f"{share.id}: its create was acknowledged, and no lease was granted"
        if share.released and (lease is None or lease.ended is None):
            yield f"{share.id}: its release was acknowledged, and it did not end"


def _within_leases(records: Iterable[Record], audit: dict[str, Audit]) -> Iterator[str]:
    """A process lives while its lease does: not before, and not a moment after its share was free for others."""
    boot = _boot_time()
    for r in records:
        lease = audit.get(r.lease)
        if lease is None:
            yield f"{r.job}: ran in lease {r.lease}, which was never granted"
            continue
        moment = boot + r.uptime
        early = lease.granted.timestamp() - moment
        late = moment - lease.ended.timestamp() if lease.ended else 0.0
        if max(early, late) > ROUGH:
            yield f"{r.job}: attempt {r.attempt} wrote {r.what} {max(early, late):.3f} s outside lease {r.lease}"


def _own_overlap(records: Iterable[Record], audit: dict[str, Audit]) -> Iterator[str]:
    """From the jobs' own times: the shares of those that lived at one moment fit one device (there is one here)."""
    lived: dict[str, list[float]] = {}
    for r in records:
        if r.lease in audit:
            first, last = lived.setdefault(r.lease, [r.uptime, r.uptime])
            lived[r.lease] = [min(first, r.uptime), max(last, r.uptime)]
    spans = {lease: span for lease, span in lived.items() if span[0] < span[1]}
    # Within one tick of the clock ends come first: what ended in it may have ended before the other began.
    moments = sorted(
        [(first, 1, lease) for lease, (first, _) in spans.items()]
        + [(last, 0, lease) for lease, (_, last) in spans.items()]
    )
    alive: set[str] = set()
    for moment, starts, lease in moments:
        if starts:
            alive.add(lease)
        else:
            alive.discard(lease)
        held = sum(audit[id].compute for id in alive)
        if held > 100.01:
            yield f"at uptime {moment} jobs lived that held {held:g} % of the device"


def _boot_time() -> float:
    """Wall-clock time of uptime 0."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _backup(world: World, file: Path, there: set[str]) -> Iterator[str]:
    """A backup has all that was acknowledged before it began; one that was killed is whole or not there."""
    if not file.exists():
        return
    target = world.directory / f"{file.name}-restored"
    restore(file, target)
    store = SqliteStore(target)
    try:
        names = {d["metadata"]["name"] for kind in ("GPUJob", "GPUPartition") for d in store.list(Query(kind)).items}
    finally:
        store.close()
    if not there <= names:
        yield f"{file.name}: lacks {sorted(there - names)}"


def nothing_left(world: World) -> list[str]:
    """After everything was deleted and the daemon stopped: no object, lease, run, process; and both files whole."""
    found = [*_store(world), *_ledger(world)]
    process = paths.process_dir(world.home)
    for place in ("runs", "jobs", "events"):
        left = sorted(path.name for path in (process / place).iterdir())
        if left:
            found.append(f"left in process/{place}: {left}")
    monitor = world.monitor()
    left = {pid: command for pid, command in world.processes().items() if pid != monitor}
    if left:
        found.append(f"left running: {left}")
    if monitor and kill(monitor, 15) and not poll(lambda: not world.processes(), PATIENCE):
        found.append(f"the monitor does not end on SIGTERM: {world.processes()}")
    return found


def _store(world: World) -> Iterator[str]:
    directory = paths.store_dir(world.home)
    store = SqliteStore(directory)
    try:
        newest = store.revision()
        for kind in ("GPUJob", "GPUPartition"):
            for document in store.list(Query(kind)).items:
                yield f"left in the store: {kind} {document['metadata']}"
    finally:
        store.close()
    with sqlite3.connect(directory / FILE) as db:
        if (verdict := db.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            yield f"the store is damaged: {verdict}"
        compacted = db.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()[0]
        revisions = [row[0] for row in db.execute("SELECT revision FROM log ORDER BY revision")]
        # Compaction keeps the rows of objects that are there still.
        if [r for r in revisions if r > compacted] != list(range(compacted + 1, newest + 1)):
            yield "the store's revisions have gaps"
    leftovers = {p.name for p in directory.iterdir()} - {FILE, f"{FILE}-wal", f"{FILE}-shm"}
    if any(name.startswith(".new-") for name in leftovers):
        yield f"left beside the store: {leftovers}"


def _ledger(world: World) -> Iterator[str]:
    listed = json.loads(world.ok(CHRONOS_CLI, "list", "--json"))["leases"]
    if listed:
        yield f"left in the ledger: {listed}"
    with sqlite3.connect(world.chronos / "ledger.db") as db:
        if (verdict := db.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            yield f"the ledger is damaged: {verdict}"
        used = db.execute("SELECT id, used_memory, used_compute FROM device").fetchall()
        if any(memory or compute for _, memory, compute in used):
            yield f"shares are taken with no lease: {used}"
        for table in ("process", "session"):
            if rows := db.execute(f"SELECT * FROM {table}").fetchall():
                yield f"left in the ledger's table {table}: {rows}"
