from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.process_bed import ProcessBed


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[ProcessBed]:
    bed = ProcessBed(tmp_path)
    try:
        yield bed
    finally:
        bed.close()
