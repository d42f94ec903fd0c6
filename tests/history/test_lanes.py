from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.history.facts import WHOLE
from cumulus.history.lanes import Piece, pack, place, unpack

HEIGHTS = st.lists(st.integers(1, WHOLE), max_size=12)


def _overlap(pieces: list[Piece]) -> bool:
    ordered = sorted(pieces)
    return any(a.offset + a.height > b.offset for a, b in itertools.pairwise(ordered))


@settings(max_examples=50)
@given(HEIGHTS, st.data())
def test_what_is_held_at_once_never_overlaps_and_nothing_of_it_is_lost(heights: list[int], data: st.DataObject) -> None:
    lane: list[list[Piece]] = []
    for height in heights:
        taken = [piece for pieces in lane for piece in pieces]
        if sum(piece.height for piece in taken) + height > WHOLE:
            if lane:
                lane.pop(data.draw(st.integers(0, len(lane) - 1)))
            continue
        made = [*place(height, taken)]
        assert sum(piece.height for piece in made) == height
        lane.append(made)
        assert not _overlap([piece for pieces in lane for piece in pieces])
        assert [*unpack(pack(made))] == made


def test_one_piece_where_it_fits_in_one() -> None:
    assert place(5000, [Piece(0, 2500)]) == (Piece(2500, 5000),)
    assert place(4000, [Piece(0, 2500), Piece(4000, 3000)]) == [Piece(2500, 1000), Piece(7000, 3000)]


def test_more_than_there_is_lies_over_the_others() -> None:
    assert place(6000, [Piece(0, 9000)]) == (Piece(4000, 6000),)
