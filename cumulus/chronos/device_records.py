"""Rows of devices in the ledger's database: which exist, how large they are, what is leased, and their health.

Inside transactions of others, as `records`.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, NamedTuple

from cumulus.chronos import device_links, device_sizes
from cumulus.chronos.contract import Device, Health
from cumulus.chronos.records import Moment
from cumulus.resources.enforcement import Enforcement

_DEVICE = (
    "SELECT number, id, name, vendor, type, memory_bytes, driver, enforcement, platform_index, device_index FROM device"
)


class LeasedShare(NamedTuple):
    """What is leased of a device, and the token that was given out last."""

    id: str
    type: str
    memory_bytes: int
    used_memory: int
    used_compute: int
    token: int


def devices(db: sqlite3.Connection) -> list[Device]:
    """The devices present, by index."""
    waiting = device_sizes.pending(db)
    found = [_device(row, waiting) for row in db.execute(f"{_DEVICE} WHERE present ORDER BY number")]
    links = device_links.of_all(db, {device.id: device.index for device in found})
    parents = device_links.parents(db)
    return [
        replace(device, links=links.get(device.id, ()), parent=parents.get(device.id, ""))
        if device.id in links or device.id in parents
        else device
        for device in found
    ]


def find_share(tx: sqlite3.Connection, index: int) -> LeasedShare | None:
    """Of the present device of that index."""
    row = tx.execute(
        "SELECT id, type, memory_bytes, used_memory, used_compute, token FROM device WHERE number = ? AND present",
        (index,),
    ).fetchone()
    return None if row is None else LeasedShare(*row)


def find_device(db: sqlite3.Connection, id: str) -> Device | None:
    """The device of a lease, present or not."""
    row = db.execute(f"{_DEVICE} WHERE id = ?", (id,)).fetchone()
    return None if row is None else _device(row, device_sizes.pending(db))


def enforcement_age(db: sqlite3.Connection, now: Moment) -> float:
    """Seconds since `record_enforcement`, infinite where it never was in this boot."""
    return _age(db, "enforcement", now)


def sizes_age(db: sqlite3.Connection, now: Moment) -> float:
    """Seconds since `remember_sizes`, infinite where it never was in this boot."""
    return _age(db, "measured", now)


def _age(db: sqlite3.Connection, key: str, now: Moment) -> float:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    age = now.monotonic - float(row[0]) if row else -1.0
    return age if age >= 0 else math.inf


def record_enforcement(tx: sqlite3.Connection, found: Mapping[str, Enforcement], now: Moment) -> None:
    """By device id: how strongly jobs are held to their leases there."""
    tx.executemany("UPDATE device SET enforcement = ? WHERE id = ?", [(e.value, id) for id, e in found.items()])
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('enforcement', ?)", (str(now.monotonic),))


ENFORCEMENT, POLICING = "health", "policing"
"""Who looks after conditions of the node: what holds jobs to their leases, and who sees overuse."""


def health(db: sqlite3.Connection, of: str = "") -> tuple[Health, ...]:
    """As `record_health` wrote it, `of` one of those who look after it or of all; nothing where it never did in this
    boot."""
    keys = (of,) if of else (ENFORCEMENT, POLICING)
    rows = (db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone() for key in keys)
    return tuple(Health(*fields) for row in rows if row for fields in json.loads(row[0]))


def record_health(tx: sqlite3.Connection, found: Sequence[Health], of: str = ENFORCEMENT) -> None:
    told = json.dumps([astuple(condition) for condition in found])
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (of, told))


def discovered(db: sqlite3.Connection, boot: str) -> bool:
    """Whether `record_devices` was called in that boot."""
    return db.execute("SELECT 1 FROM meta WHERE key = 'discovered' AND value = ?", (boot,)).fetchone() is not None


def record_devices(tx: sqlite3.Connection, found: Sequence[Device], boot: str, now: Moment) -> None:
    """Take over what discovery found, GPUs first.

    A known device keeps its index, so that one never comes to mean another device. One exception: a GPU that appears
    on a machine where only a CPU was known goes before it, as long as no lease is live there, since people write 0 for
    the first GPU.
    """
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('discovered', ?)", (boot,))
    known = dict(tx.execute("SELECT id, number FROM device").fetchall())
    tx.execute("UPDATE device SET present = 0")
    for device in found:
        if device.id in known:
            tx.execute(
                "UPDATE device SET present = 1, name = ?, driver = ?, platform_index = ?, device_index = ?"
                " WHERE id = ?",
                (device.name, device.driver, device.platform_index, device.device_index, device.id),
            )
            continue
        known[device.id] = max(known.values(), default=-1) + 1
        tx.execute(
            "INSERT INTO device (id, number, present, name, vendor, type, memory_bytes, driver, platform_index,"
            " device_index) VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?)",
            (device.id, known[device.id], device.name, device.vendor, device.type, device.memory_bytes,
             device.driver, device.platform_index, device.device_index),
        )  # fmt: skip
    record_sizes(tx, found, now)
    device_links.record(tx, found)
    _gpus_first(tx)


def record_sizes(tx: sqlite3.Connection, found: Sequence[Device], now: Moment) -> None:
    """Take over the sizes alone, of the devices that are known."""
    remember_sizes(tx, now)
    known = {id: (type, size) for id, type, size in tx.execute("SELECT id, type, memory_bytes FROM device")}
    waiting = device_sizes.pending(tx)
    for device in found:
        if device.id in known:
            type, size = known[device.id]
            device_sizes.follow(
                tx, device.id, device_sizes.settled(type, waiting.get(device.id, size), device.memory_bytes)
            )


def remember_sizes(tx: sqlite3.Connection, now: Moment) -> None:
    """That drivers were asked for them."""
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('measured', ?)", (str(now.monotonic),))


def _gpus_first(tx: sqlite3.Connection) -> None:
    rows: Iterable[tuple[str, int, str, int]] = tx.execute(
        "SELECT id, number, type, used_memory > 0 FROM device ORDER BY type <> 'gpu', number"
    ).fetchall()
    moves = [(wanted, id, live) for wanted, (id, number, _, live) in enumerate(rows) if number != wanted]
    if any(live for _, _, live in moves):
        return
    for wanted, id, _ in moves:
        tx.execute("UPDATE device SET number = ? WHERE id = ?", (-1 - wanted, id))
    tx.execute("UPDATE device SET number = -1 - number WHERE number < 0")


def _device(row: Any, waiting: Mapping[str, int]) -> Device:
    number, id, name, vendor, type_, memory_bytes, driver, enforcement, platform_index, device_index = row
    return Device(
        index=number,
        id=id,
        name=name,
        vendor=vendor,
        type=type_,
        memory_bytes=memory_bytes,
        driver=driver,
        enforcement=Enforcement(enforcement),
        platform_index=platform_index,
        device_index=device_index,
        next_memory_bytes=waiting.get(id, 0),
    )
