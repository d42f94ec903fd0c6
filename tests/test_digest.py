from __future__ import annotations

import hashlib
import threading

import pytest

from cumulus.lib.digest import Sha256


@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], [2**20] * 9, [5 * 2**20, 1], [1, 5 * 2**20, 0, 7]], ids=str)
def test_it_is_the_sha256(sizes: list[int]) -> None:
    before = threading.active_count()
    digest, plain = Sha256(), hashlib.sha256()
    for number, size in enumerate(sizes):
        piece = bytes([number]) * size
        digest.update(piece)
        plain.update(piece)
    assert digest.hexdigest() == plain.hexdigest() == digest.hexdigest()
    digest.close()
    assert threading.active_count() == before
