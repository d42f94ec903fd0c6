"""After a power cut at any moment: what was told to be complete is there and whole, and nothing half can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.blob.directory import DirectoryBlobStore
from cumulus.checkpoint.layout import Damaged
from cumulus.errors import BlobMismatch
from cumulus.uploader import catalog
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.restore import restore
from tests.blob.test_conformance import ANN, read, sha
from tests.crash.test_power_loss import cuts, place, recorded  # noqa: F401
from tests.uploader.saves import loaded

pytestmark = pytest.mark.timeout(1800)
SAMPLES = 120

BLOBS = """
import hashlib, pathlib, sys
from cumulus.blob.directory import DirectoryBlobStore
store = DirectoryBlobStore(pathlib.Path(sys.argv[1]) / "blobs")
for n in range(4):
    content = bytes([65 + n]) * 3000
    name = hashlib.sha256(content).hexdigest()
    store.write("1000:ann", name, 3000, [content[:1000]])
    store.write("1000:ann", name, 3000, [content[1000:2000], content[2000:]], 1000)
    print("complete", n, flush=True)
"""


def test_blobs(place: Path) -> None:  # noqa: F811
    def check(said: list[str]) -> None:
        store = DirectoryBlobStore(place / "root" / "blobs")
        for n in range(4):
            content = bytes([65 + n]) * 3000
            found = store.find(ANN, sha(content))
            if f"complete {n}" in said:
                assert found is not None
                assert found.complete
            if found is None:
                continue
            if found.complete:
                assert read(store, ANN, sha(content)) == content
            else:
                # What is there may be anything: at the worst it is to be sent again.
                try:
                    store.write(ANN, sha(content), 3000, [content[found.received :]], found.received)
                except BlobMismatch:
                    store.write(ANN, sha(content), 3000, [content])
                assert read(store, ANN, sha(content)) == content

    cuts(place, recorded(place, BLOBS), check, SAMPLES)


CHECKPOINTS = """
import pathlib, sys, tempfile
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.upload import Journal, Upload
from tests.uploader.saves import save
place = DirectoryPlace(sys.argv[1] + "/shared")
with tempfile.TemporaryDirectory() as elsewhere:
    for step in range(4):
        save(pathlib.Path(elsewhere, "a"), step, {"x": b"%d" % step * 2000, "sub/y": b"y"})
        Upload(place, Journal(elsewhere + "/notes")).run(elsewhere + "/a", step, 2)
        print("committed", step, flush=True)
"""


def test_checkpoints_in_a_shared_directory(place: Path, tmp_path: Path) -> None:  # noqa: F811
    number = 0

    def check(said: list[str]) -> None:
        nonlocal number
        number += 1
        shared = DirectoryPlace(str(place / "root" / "shared"))
        refused: list[Damaged] = []
        found = restore(shared, str(tmp_path / str(number)), refused=refused.append)
        last = len(said) - 1
        assert (-1 if found is None else found.step) >= last
        assert not refused, "a checkpoint was committed before its files were durable"
        if found is not None:
            assert loaded(tmp_path / str(number), found.step) == {"x": b"%d" % found.step * 2000, "sub/y": b"y"}
        newest, _ = catalog.latest(shared)
        assert (-1 if newest is None else newest.step) >= last

    cuts(place, recorded(place, CHECKPOINTS), check, SAMPLES)
