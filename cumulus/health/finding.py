"""What a check found; runs all checks at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cumulus.clock import Clock
from cumulus.errors import CumulusError

Level = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is what to do about it, "" where nothing needs to be done."""

    level: Level
    what: str
    text: str
    fix: str = ""


HealthCheck = Callable[[], Iterator[Finding]]


def examine(checks: Mapping[str, HealthCheck], clock: Clock, seconds: float) -> Iterator[Finding]:
    """What each check found, by its name, in their order. One that has not answered after so many seconds is left
    behind: its thread ends with the process."""
    found: dict[str, list[Finding]] = {}

    def run(name: str, check: HealthCheck) -> None:
        found[name] = guarded(name, check)

    threads = {
        name: threading.Thread(target=run, args=(name, check), name=name, daemon=True) for name, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = clock.monotonic() + seconds
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - clock.monotonic()))
        late = Finding("FAIL", name, f"no answer within {seconds:g} s", "look for a hanging driver or disk")
        yield from found.get(name, [late])


def guarded(name: str, check: HealthCheck) -> list[Finding]:
    """What a check found; an error of ours is a finding too."""
    try:
        return list(check())
    except CumulusError as error:
        return [Finding("FAIL", name, str(error), error.hint or "")]
    except PermissionError as error:
        fix = "run as a user who may, or chown or chmod it or a directory above it"
        return [Finding("FAIL", name, f"{error.filename or 'something'} cannot be read: {error.strerror}", fix)]
    except OSError as error:
        return [Finding("FAIL", name, str(error), "see the system's log (dmesg, journalctl)")]
