"""Where in its device's lane a lease is drawn, chosen once when it begins, so that it stays where it is however the
window moves. Pure.

Memory is never leased twice, so the shares that are held at once fit into a lane; but not always in one piece, for
neighbours begin and end as they like. Then a lease has several pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cumulus.history.facts import WHOLE


class Piece(NamedTuple):
    """A part of a lane's height."""

    offset: int
    height: int


def place(height: int, taken: Iterable[Piece]) -> Sequence[Piece]:
    """Pieces of that height in all which overlap nothing that is taken: the first gap in which it fits whole, else the
    largest ones. Where a node leased more than there is, it lies over the others from the top."""
    gaps = _gaps(taken)
    for gap in gaps:
        if gap.height >= height:
            return (Piece(gap.offset, height),)
    pieces, left = [], height
    for gap in sorted(gaps, key=lambda gap: (-gap.height, gap.offset)):
        used = min(left, gap.height)
        pieces.append(Piece(gap.offset, used))
        left -= used
        if not left:
            return sorted(pieces)
    return (Piece(max(0, WHOLE - height), min(height, WHOLE)),)


def _gaps(taken: Iterable[Piece]) -> list[Piece]:
    found, at = [], 0
    for offset, height in sorted(taken):
        if offset > at:
            found.append(Piece(at, offset - at))
        at = max(at, offset + height)
    if at < WHOLE:
        found.append(Piece(at, WHOLE - at))
    return found


def pack(pieces: Sequence[Piece]) -> bytes:
    """Of several pieces, two bytes for each of their numbers."""
    return b"".join(number.to_bytes(2, "big") for piece in pieces for number in piece)


def unpack(packed: bytes) -> Sequence[Piece]:
    numbers = [int.from_bytes(packed[at : at + 2], "big") for at in range(0, len(packed), 2)]
    return [Piece(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
