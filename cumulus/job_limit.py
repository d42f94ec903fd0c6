"""How many jobs the leading daemon of a state directory lets run at once. It is noted in a file, since `why` counts
on it in whatever process it is answered. Light."""

from __future__ import annotations

import os
from pathlib import Path

from cumulus.lib.files import write_durably

_FILE = "max-concurrent-jobs"


def note(home: Path, most: int | None) -> None:
    """Said by who begins to lead; None: there is no limit. Raises OSError."""
    path = home / _FILE
    if most is None:
        path.unlink(missing_ok=True)
    else:
        write_durably(os.fspath(path), f"{most}\n".encode())


def recall(home: Path) -> int | None:
    """None where there is no limit, or nobody ever said one."""
    try:
        text = (home / _FILE).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isascii() and text.isdecimal() and int(text) else None
