"""Variables of a source: a file with a line `NAME=value` for each, and `${{ NAME }}` in manifests.

One folder of manifests so serves several clusters, each with a file of its own. A name that the file does not have is a
mistake, never an empty text. The shell's ${NAME} is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cumulus.manifest import Position, Problem

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_USE = re.compile(rb"\$\{\{\s*([^{}\r\n]*?)\s*\}\}")
LONGEST_VALUE = 4096


def parse(name: str, data: bytes, problems: list[Problem]) -> dict[str, bytes]:
    """The variables in a file. Empty lines and those that begin with # say nothing."""
    found: dict[str, bytes] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, separator, value = line.partition("=")
        if not separator or not _NAME.fullmatch(key.strip()):
            problems.append(Problem(Position(name, number, 1), "", "must be NAME=value"))
        elif key.strip() in found:
            problems.append(Problem(Position(name, number, 1), "", f"{key.strip()} is given already"))
        elif len(value) > LONGEST_VALUE or not value.isprintable():
            said = f"the value of {key.strip()} must be one line of at most {LONGEST_VALUE} printable characters"
            problems.append(Problem(Position(name, number, 1), "", said))
        else:
            found[key.strip()] = value.strip().encode()
    return found


def filled(name: str, data: bytes, variables: Mapping[str, bytes], problems: list[Problem]) -> bytes:
    """A manifest with its variables; lines stay where they are."""

    def value(use: re.Match[bytes]) -> bytes:
        wanted = use[1].decode("utf-8", "replace")
        if (found := variables.get(wanted)) is not None:
            return found
        known = f"; there are {', '.join(sorted(variables))}" if variables else "; there are none"
        said = f"there is no variable {wanted[:40]!r}{known}"
        problems.append(Problem(Position.at(name, data, use.start()), "", said))
        return b""

    return _USE.sub(value, data)
