"""What pip and uv say of a failure, in one line. Standard library only."""

from __future__ import annotations

import re

from cumulus.lib.printable import one_line

_LONGEST = 500
_PIP = re.compile(r"ERROR:\s*(.+)")
# uv draws a chain of causes with boxes, and breaks its lines.
_UV = re.compile(r"\s*(?:error:|×)\s")
_BOXES = re.compile(r"[×├╰│─▶]+")
_ACCOUNT = re.compile(r"://[^/@\s]+@")


def cause_of(said: str, otherwise: str) -> str:
    """The cause in what a failed installer said; `otherwise` where it said nothing."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    start = next((number for number, line in enumerate(lines) if _UV.match(line)), None)
    if start is not None:
        text = " ".join(_BOXES.sub(" ", " ".join(lines[start:])).split())
        text = text.removeprefix("error: ")
    else:
        text = "; ".join([match[1] for line in lines if (match := _PIP.match(line.strip()))][:2])
    return one_line(without_accounts(text or (lines[-1].strip() if lines else otherwise)))[:_LONGEST]


def without_accounts(text: str) -> str:
    """The text without what stands before the host in an address."""
    return _ACCOUNT.sub("://…@", text)
