"""Every bad manifest in `bad/` gives exactly the problems that the comment at its end lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.manifest import InvalidManifest, load_text

BAD = sorted((Path(__file__).parent / "bad").iterdir())
MARK = b"# Expected:\n"


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.name)
def test_every_problem_is_told(file: Path) -> None:
    manifest, _, comment = file.read_bytes().rpartition(MARK)
    expected = [line.removeprefix("# ") for line in comment.decode().splitlines()]
    with pytest.raises(InvalidManifest) as caught:
        load_text(manifest, name=file.name)
    assert str(caught.value).splitlines() == expected


def test_there_are_a_hundred() -> None:
    assert len(BAD) >= 100
