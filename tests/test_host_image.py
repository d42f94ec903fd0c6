"""The host image: always the same bytes, and nobody's to name."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from cumulus.chronos.contract.container import HOST_MARK
from cumulus.lib import host_image
from cumulus.resources.job import GPUJobSpec


def test_it_is_the_same_each_time_and_holds_a_mark() -> None:
    made = host_image.image("amd64")
    host_image.image.cache_clear()
    assert host_image.image("amd64") == made
    # Services and nodes know it by this: another one needs a new tag, and a word in the changelog.
    assert made.id == "sha256:37e43b6c6fc3f058e5120f7ec625ef20b871c95994495db1b29f230a4796caf0"
    with tarfile.open(fileobj=io.BytesIO(made.archive)) as archive:
        layer = archive.extractfile("layer.tar")
        manifest = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        assert layer is not None
        with tarfile.open(fileobj=layer) as files:
            assert files.getnames() == [HOST_MARK] == [host_image.MARK]
    assert manifest[0]["RepoTags"] == [host_image.TAG]
    assert host_image.image("arm64").id != made.id
    with pytest.raises(ValueError, match="no host image for riscv64"):
        host_image.image("riscv64")


ID = host_image.image("arm64").id.removeprefix("sha256:")


@pytest.mark.parametrize(
    "name",
    [
        "cumulus-host", "cumulus-host:1", "cumulus-host:9", "docker.io/library/cumulus-host",
        "localhost:5000/x/cumulus-host:1", "Cumulus-Host:1",
        "cumulus-host@sha256:" + "0" * 64, f"sha256:{ID}", ID, ID[:12], f"other@sha256:{ID}",
    ],
)  # fmt: skip
def test_nobody_names_it_in_a_job(name: str) -> None:
    assert host_image.is_named(name)
    with pytest.raises(ValueError, match="programs of a node's own disk"):
        GPUJobSpec.model_validate({"image": name, "gpu": {"memory": 0.5, "duration": "1h"}})


@pytest.mark.parametrize(
    "name", ["cumulus-hosts", "my-cumulus-host", "cumulus-host/train", "train:cumulus-host", "0" * 64]
)
def test_other_images_are_left_alone(name: str) -> None:
    assert not host_image.is_named(name)
