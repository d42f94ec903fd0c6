"""The host image: what containers are made of that get the node's own root instead. It holds a mark and nothing else.

It is made here, the same bytes each time, so that it has the same id everywhere: services name it by that, which no
registry is asked about. Nobody may name it in a job. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from typing import NamedTuple

NAME = "cumulus-host"
TAG = f"{NAME}:1"
MARK = ".cumulus-host"
ARCHITECTURES = ("amd64", "arm64")
"""As Docker calls them."""

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")
_EPOCH = "1970-01-01T00:00:00Z"


class HostImage(NamedTuple):
    """`archive`: as `docker load` takes it."""

    id: str
    archive: bytes


@cache
def image(architecture: str) -> HostImage:
    """Raises ValueError for an architecture that there is none for."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"there is no host image for {architecture}; there are {', '.join(ARCHITECTURES)}")
    layer = _tar({MARK: b"1\n"})
    config = {
        "architecture": architecture, "os": "linux", "created": _EPOCH, "config": {"Cmd": ["/"]},
        "history": [{"created": _EPOCH, "created_by": NAME}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }  # fmt: skip
    content = json.dumps(config, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": [TAG], "Layers": ["layer.tar"]}]
    files = {f"{digest}.json": content, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    return HostImage(f"sha256:{digest}", _tar(files))


def is_named(image_name: str) -> bool:
    """Whether an image that somebody names is, or may be, this one: by its name at any registry, or by its id."""
    name, _, digest = image_name.strip().partition("@")
    if name.rpartition("/")[2].partition(":")[0].lower() == NAME:
        return True
    found = [match[1] for match in map(_ID.fullmatch, (name, digest)) if match]
    ids = [image(each).id.removeprefix("sha256:") for each in ARCHITECTURES] if found else []
    return any(id.startswith(each) for id in ids for each in found)


def _tar(files: dict[str, bytes]) -> bytes:
    # Loaded where the image is made: every command that reads a job loads this module.
    import io
    import tarfile

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o444
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()
