from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.process_bed import ProcessBed
from tests.unix_users import open_directory


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[ProcessBed]:
    bed = ProcessBed(tmp_path)
    try:
        yield bed
    finally:
        bed.close()


@pytest.fixture
def shared(users: object) -> Iterator[ProcessBed]:
    """One for two Unix users: through its directory all may pass."""
    with open_directory() as directory:
        bed = ProcessBed(directory)
        try:
            yield bed
        finally:
            bed.close()
