"""Cleans up what `runtime` noted about containers: slots that were used, and logs that were kept.

A slot is remembered for as long as its leases are, and a day at least: by then nothing is left that could start it.
A kept log waits a day for whoever wants it; where they take too much of the disk, the oldest go first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cumulus.chronos.runtime import INPUTS, JOINED, KEPT, LOGS, SLOTS, TAKEN

REMEMBERED = 86400.0
"""Seconds."""
KEPT_BYTES = 1 << 30
"""Of all kept logs."""


def collect(home: Path, known: Callable[[str], bool], now: float) -> None:
    """`known` tells whether the ledger remembers a lease; `now` is in seconds of the epoch, as files have it."""
    before = now - REMEMBERED
    for file in _newest_first(home / SLOTS / TAKEN):
        if file.stat().st_mtime < before and not any(known(lease) for lease in _leases(file)):
            file.unlink(missing_ok=True)
    for note in (*_newest_first(home / SLOTS / JOINED), *_newest_first(home / SLOTS / INPUTS)):
        # Of one that was never made: with others it goes when they do.
        if note.stat().st_mtime < before and not (home / SLOTS / LOGS / note.name).exists():
            note.unlink(missing_ok=True)
    size = 0
    for note in _newest_first(home / SLOTS / LOGS):
        container = Path(note.read_text())
        if container.exists():
            continue
        kept = container.parent.parent / KEPT / container.name
        size += sum(file.stat().st_size for file in _newest_first(kept))
        if (kept if kept.exists() else note).stat().st_mtime < before or size > KEPT_BYTES:
            shutil.rmtree(kept, ignore_errors=True)
            note.unlink(missing_ok=True)


def _newest_first(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    files = [path for path in directory.iterdir() if not path.name.startswith(".")]
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def _leases(file: Path) -> list[str]:
    with suppress(ValueError, KeyError, TypeError):
        return [str(lease) for lease in json.loads(file.read_text())["leases"]]
    return []
