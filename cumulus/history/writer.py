"""What is written into the history's file, row by row, within the transaction of its caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from cumulus.history import schema
from cumulus.history.facts import WHOLE, DeviceFact, LeaseFact, NodeFact, PromiseFact, ReservationFact
from cumulus.history.lanes import Piece, pack, place, unpack
from cumulus.history.series import Sample, Series
from cumulus.resources.device import FULL_COMPUTE, counted_share

NODE = -1
"""In the place of a device's number: the whole node."""
_NAMES = 20_000
"""Numbers of names that are kept in memory."""


@dataclass(slots=True)
class Running:
    """A lease that has not ended, as it is written."""

    id: int
    node: str
    device: int
    """The row of its device."""
    start: int
    expires: int | None
    pieces: Sequence[Piece]
    made_there: bool
    """On the node itself."""
    parked: bool
    fact: LeaseFact | None = None
    """As it was told last; None: it was read from the file."""
    sampled: int | None = None
    """When its use was told last."""


class HistoryWriter:
    """Knows what the file has of all that is not over. Not for use by several threads."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.wrote = False
        """Whether something was written; whoever asks sets it back."""
        self.running: dict[str, Running] = {}
        """By uid."""
        self._names: dict[str, int] = {}
        self._devices: dict[tuple[str, int], tuple[int, DeviceFact]] = {}
        self._promises: dict[str, tuple[int, int]] = {}
        """Those that are open: row, and the latest start, by gang."""
        self._states: dict[tuple[str, int, int], int] = {}
        """Those that go on: row, by node, device and kind."""
        self._load()

    def position(self, store: str) -> int | None:
        found = dict(self.connection.execute("SELECT name, value FROM meta WHERE name IN ('store', 'revision')"))
        return int(found["revision"]) if found.get("store") == store else None

    def move_to(self, store: str, revision: int) -> None:
        self.connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", [("store", store), ("revision", revision)]
        )

    def names_changed(self) -> None:
        """Some were deleted."""
        self._names.clear()

    # Leases.

    def lease(self, fact: LeaseFact, gang: str = "") -> None:
        """Write the lease as it is now. `gang`: whose promise it was for."""
        known = self.running.get(fact.uid)
        if known is not None and known.fact == fact:
            return
        if known is not None and _is_another(known, fact):
            # It was parked, or came back: what was before is over.
            self._close(fact.uid, known, fact.start if fact.left is None or known.parked else fact.left, "Parked")
            known = None
        if known is None:
            known = self._add_lease(fact, gang)
        if known is None:
            return
        self.wrote = True
        self.connection.execute(
            "UPDATE leases SET ended = ?, queue = ?, memory = ?, share = ?, compute = ?, begun = ?, expires = ?, "
            "phase = ?, enforcement = ? WHERE id = ?",
            (
                fact.end, self._name(fact.queue), fact.memory_bytes, self._share(fact), fact.compute, fact.started,
                fact.expires, _phase(fact.phase), _enforcement(fact.enforcement), known.id,
            ),
        )  # fmt: skip
        if fact.end is None:
            known.fact, known.expires = fact, fact.expires
            self.running[fact.uid] = known
        else:
            self.running.pop(fact.uid, None)
            self._settle(known, fact.end)

    def close_missing(self, seen: Collection[str], now: int) -> None:
        """End the leases of partitions that are not there any more: nobody knows when they did."""
        for uid, known in [*self.running.items()]:
            if not known.made_there and uid not in seen:
                self._end(uid, known, now)

    def _end(self, uid: str, known: Running, now: int) -> None:
        """Of what is gone without a word: it ended by now, and when it had to at the latest."""
        if known.expires is not None and known.expires <= now:
            self._close(uid, known, known.expires, "Expired")
        else:
            self._close(uid, known, now, "Released")

    def _close(self, uid: str, known: Running, moment: int, phase: str) -> None:
        self.wrote = True
        end = max(known.start, moment)
        self.connection.execute("UPDATE leases SET ended = ?, phase = ? WHERE id = ?", (end, _phase(phase), known.id))
        del self.running[uid]
        self._settle(known, end)

    def _add_lease(self, fact: LeaseFact, gang: str) -> Running | None:
        """A new row. None where the lease is written already, and has ended."""
        earliest = fact.start if fact.parked else fact.left or 0
        found = self.connection.execute(
            "SELECT 1 FROM leases WHERE uid = ? AND parked = ? AND start >= ?",
            (uid_of(fact.uid), fact.parked, earliest),
        ).fetchone()
        if found is not None:
            return None
        device, described = self._device_of(fact)
        of_share = self._share(fact) * WHOLE // FULL_COMPUTE
        height = described.height(fact.memory_bytes) if described.memory_bytes else of_share
        # What waits in main memory takes nothing of the lane.
        pieces = [Piece(0, 0)] if fact.parked else place(max(1, height), self._taken(device, fact))
        promised = self.connection.execute("SELECT latest FROM promises WHERE gang = ?", (gang,)).fetchone()
        made = self.connection.execute(
            "INSERT INTO leases (uid, parked, device, start, namespace, job, owner, queue, attempt, replica, memory, "
            "share, compute, height, place, pieces, phase, enforcement, promised, known, busy, told, used) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, 0, 0, ?, ?, ?, 0, 0, ?, 0, 0, 0, 0)",
            (
                uid_of(fact.uid), fact.parked, device, fact.start, self._name(fact.namespace), self._name(fact.job),
                self._name(fact.user), fact.attempt, fact.replica, sum(piece.height for piece in pieces),
                pieces[0].offset, pack(pieces) if len(pieces) > 1 else None, promised[0] if promised else None,
            ),
        )  # fmt: skip
        assert made.lastrowid is not None
        return Running(
            made.lastrowid, fact.node, device, fact.start, fact.expires, pieces, not fact.namespace, fact.parked
        )

    def _taken(self, device: int, fact: LeaseFact) -> list[Piece]:
        """What others have of the lane while it lasts."""
        taken = [piece for each in self.running.values() if each.device == device for piece in each.pieces]
        rows = self.connection.execute(
            "SELECT place, height, pieces FROM leases WHERE ended > ? AND device = ? AND start < ?",
            (fact.start, device, fact.end if fact.end is not None else 1 << 62),
        )
        return taken + [piece for row in rows for piece in pieces_of(*row)]

    def _settle(self, known: Running, end: int) -> None:
        """What was used between the last sample and the end was as before: samples come once a minute."""
        held = end - known.start
        if known.sampled is None or held <= 0:
            return
        (told, busy, asked, used) = self.connection.execute(
            "SELECT known, busy, told, used FROM leases WHERE id = ?", (known.id,)
        ).fetchone()
        left = end - known.sampled
        self.connection.execute(
            "UPDATE leases SET known = ?, busy = ?, told = ?, used = ? WHERE id = ?",
            (*_stretched(told, busy, held, left), *_stretched(asked, used, held, left), known.id),
        )

    # Use.

    def sample(self, node: str, uses: Mapping[str, Sample], now: int, every: int) -> None:
        """Samples by the ids of leases on the node. One stands for the time since the last one, at most twice
        `every`."""
        for id, sample in uses.items():
            uid = id if id in self.running else f"{node}/{id}"
            lease = self.running.get(uid)
            if lease is None or lease.node != node or lease.parked:
                continue
            since = max(lease.start, now - every if lease.sampled is None else lease.sampled)
            passed = max(0, min(now - since, 2 * every))
            lease.sampled = now
            self.wrote = True
            self._add_sample(lease.id, lease.start, now, sample, every)
            busy, used = sample.busy, sample.used
            self.connection.execute(
                "UPDATE leases SET known = known + ?, busy = busy + ?, told = told + ?, used = used + ? WHERE id = ?",
                (
                    0 if busy is None else passed, 0 if busy is None else round(passed * min(1.0, busy)),
                    0 if used is None else passed, 0 if used is None else round(passed * min(1.0, used)), lease.id,
                ),
            )  # fmt: skip

    def _add_sample(self, lease: int, start: int, now: int, sample: Sample, every: int) -> None:
        row = self.connection.execute("SELECT first, step, samples FROM series WHERE lease = ?", (lease,)).fetchone()
        series = Series(*row) if row is not None else Series(max(start, now - every), every)
        series = series.having(now - 1, sample, every)
        self.connection.execute("INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?)", (lease, *series))

    # Promises.

    def promise(self, fact: PromiseFact, now: int) -> None:
        """Write what the gang is promised, or how its promise ended."""
        known = self._promises.get(fact.key)
        if fact.latest is not None:
            if known is None:
                self._add_promise(fact, fact.latest, now)
            elif fact.latest < known[1]:
                self.wrote = True
                self.connection.execute("UPDATE promises SET latest = ? WHERE id = ?", (fact.latest, known[0]))
                self._promises[fact.key] = known[0], fact.latest
        elif known is not None and (fact.granted is not None or fact.over):
            self.wrote = True
            closed = now if fact.granted is None else max(now, fact.granted)
            self.connection.execute(
                "UPDATE promises SET started = ?, closed = ? WHERE id = ?", (fact.granted, closed, known[0])
            )
            del self._promises[fact.key]

    def _add_promise(self, fact: PromiseFact, latest: int, now: int) -> None:
        self.wrote = True
        made = self.connection.execute(
            "INSERT INTO promises (gang, namespace, job, owner, queue, made, latest) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (gang) DO UPDATE SET latest = min(latest, excluded.latest), closed = NULL "
            "RETURNING id, latest",
            (
                fact.key, self._name(fact.namespace), self._name(fact.job), self._name(fact.user),
                self._name(fact.queue), now, latest,
            ),
        ).fetchone()  # fmt: skip
        self._promises[fact.key] = made

    # Nodes.

    def node(self, fact: NodeFact, now: int, *, deleted: bool) -> None:
        """Write which devices it has, whether it takes and does work, and the leases made on it."""
        if deleted:
            fact = fact._replace(devices=(), faults=frozenset(), ready=True, cordoned=False, leases=())
        for device in fact.devices:
            known = self._devices.get((device.node, device.number))
            if known is None or known[1] != device:
                self._add_device(device, now)
        for state in self._states.keys() - _states(fact):
            if state[0] == fact.name:
                self.wrote = True
                self.connection.execute("UPDATE states SET ended = ? WHERE id = ?", (now, self._states.pop(state)))
        for name, number, kind in _states(fact) - self._states.keys():
            self.wrote = True
            made = self.connection.execute(
                "INSERT INTO states (node, number, kind, start) VALUES (?, ?, ?, ?)",
                (self._name(name), number, kind, now),
            )
            assert made.lastrowid is not None
            self._states[name, number, kind] = made.lastrowid
        self._leases_made_there(fact, now)

    def _leases_made_there(self, fact: NodeFact, now: int) -> None:
        here = {lease.uid for lease in fact.leases}
        for uid, known in [*self.running.items()]:
            if known.made_there and known.node == fact.name and uid not in here:
                self._end(uid, known, now)
        for lease in fact.leases:
            known_one = self.running.get(lease.uid)
            self.lease(lease._replace(start=known_one.start if known_one is not None else now))

    def _device_of(self, fact: LeaseFact) -> tuple[int, DeviceFact]:
        known = self._devices.get((fact.node, fact.device))
        if known is not None and (not fact.device_name or known[1].name == fact.device_name):
            return known
        # Of a node that is gone, or whose device of that number is another one by now.
        found = DeviceFact(fact.node, fact.device, "", fact.device_name, 0, "")
        return self._row_of(found, 0), found

    def _add_device(self, device: DeviceFact, now: int) -> None:
        self.wrote = True
        self._devices[device.node, device.number] = self._row_of(device, now), device

    def _row_of(self, device: DeviceFact, since: int) -> int:
        row = self.connection.execute(
            "INSERT INTO devices (node, number, uuid, name, memory, parent, since) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET since = max(since, excluded.since) RETURNING id",
            (
                self._name(device.node), device.number, device.uuid, device.name, device.memory_bytes, device.parent,
                since,
            ),
        ).fetchone()  # fmt: skip
        return int(row[0])

    def _share(self, fact: LeaseFact) -> int:
        """In thousandths. It is counted where there are queues; elsewhere it is counted here."""
        if fact.share:
            return fact.share
        known = self._devices.get((fact.node, fact.device))
        memory = known[1].memory_bytes if known is not None else 0
        return min(FULL_COMPUTE, max(1, counted_share(fact.memory_bytes, fact.compute, memory)))

    # Reservations.

    def reservation(self, name: str, fact: ReservationFact | None, now: int) -> None:
        """Write when its devices are held. None: it holds none any more."""
        named = self._name(name)
        times = fact is not None and fact.start < fact.end
        held = {(self._name(node), number) for node, number in fact.places} if fact is not None and times else set()
        for id, node, number, start, end in self.connection.execute(
            "SELECT id, node, number, start, ended FROM reserved WHERE reservation = ? AND ended > ?", (named, now)
        ).fetchall():
            if fact is not None and (node, number) in held and start == fact.start:
                if end == fact.end:
                    held.remove((node, number))
            elif start < now:
                self.wrote = True
                self.connection.execute("UPDATE reserved SET ended = ? WHERE id = ?", (now, id))
            else:
                # It never began.
                self.wrote = True
                self.connection.execute("DELETE FROM reserved WHERE id = ?", (id,))
        for node, number in held:
            assert fact is not None
            self.wrote = True
            self.connection.execute(
                "INSERT INTO reserved (reservation, node, number, start, ended, whose) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET ended = excluded.ended",
                (named, node, number, fact.start, fact.end, self._name(fact.whose)),
            )

    def end_missing_reservations(self, seen: Collection[str], now: int) -> None:
        """Of those that are not there any more, what is held or would be."""
        for (name,) in self.connection.execute(
            "SELECT DISTINCT n.text FROM reserved r JOIN names n ON n.id = r.reservation WHERE r.ended > ?", (now,)
        ).fetchall():
            if name not in seen:
                self.reservation(name, None, now)

    # Names.

    def _name(self, text: str) -> int:
        known = self._names.get(text)
        if known is None:
            row = self.connection.execute("SELECT id FROM names WHERE text = ?", (text,)).fetchone()
            known = row[0] if row else self.connection.execute("INSERT INTO names (text) VALUES (?)", (text,)).lastrowid
            assert known is not None
            if len(self._names) >= _NAMES:
                self._names.clear()
            self._names[text] = known
        return known

    def _load(self) -> None:
        ask = self.connection.execute
        for row in ask(
            "SELECT d.id, n.text, d.number, d.uuid, d.name, d.memory, d.parent FROM devices d "
            "JOIN names n ON n.id = d.node WHERE d.since > 0 ORDER BY d.since, d.id"
        ):
            self._devices[row[1], row[2]] = row[0], DeviceFact(*row[1:])
        for uid, parked, id, node, device, start, expires, offset, height, packed, namespace, sampled in ask(
            "SELECT l.uid, l.parked, l.id, n.text, l.device, l.start, l.expires, l.place, l.height, l.pieces, "
            "l.namespace, s.first + s.step * (length(s.samples) / 2) FROM leases l JOIN devices d ON d.id = l.device "
            "JOIN names n ON n.id = d.node LEFT JOIN series s ON s.lease = l.id WHERE l.ended IS NULL"
        ):
            pieces = pieces_of(offset, height, packed)
            self.running[text_of(uid)] = Running(
                id, node, device, start, expires, pieces, namespace == 0, bool(parked), sampled=sampled
            )
        for id, gang, latest in ask("SELECT id, gang, latest FROM promises WHERE closed IS NULL"):
            self._promises[gang] = id, latest
        for id, node, number, kind in ask(
            "SELECT s.id, n.text, s.number, s.kind FROM states s JOIN names n ON n.id = s.node WHERE s.ended IS NULL"
        ):
            self._states[node, number, kind] = id


def _is_another(known: Running, fact: LeaseFact) -> bool:
    """Whether the share is not the one that is written: its program was parked, or came back."""
    return known.parked != fact.parked or (fact.left is not None and known.start < fact.left)


def pieces_of(offset: int, height: int, packed: bytes | None) -> Sequence[Piece]:
    """Of the columns of a lease."""
    return unpack(packed) if packed else (Piece(offset, height),)


def text_of(uid: bytes | str) -> str:
    """The uid in the column."""
    return str(UUID(bytes=uid)) if isinstance(uid, bytes) else uid


def uid_of(text: str) -> bytes | str:
    try:
        found = UUID(text)
    except ValueError:
        return text
    return found.bytes if str(found) == text else text


def _states(fact: NodeFact) -> set[tuple[str, int, int]]:
    found = {(fact.name, index, schema.DOWN) for index in fact.faults}
    if fact.cordoned:
        found.add((fact.name, NODE, schema.DRAINED))
    if not fact.ready:
        found.add((fact.name, NODE, schema.DOWN))
    return found


def _stretched(known: int, part: int, held: int, left: int) -> tuple[int, int]:
    """Where all but the last moments are known, those were like the others."""
    if not known or known + max(0, left) * 2 < held:
        return known, part
    return held, min(held, part * held // known)


def _phase(text: str) -> int:
    return schema.PHASES.index(text) if text in schema.PHASES else schema.PHASES.index("Active")


def _enforcement(text: str) -> int:
    return schema.ENFORCEMENTS.index(text) if text in schema.ENFORCEMENTS else 0
