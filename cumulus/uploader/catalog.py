"""Which checkpoints are committed in a place, which is the newest, and which go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cumulus.checkpoint.layout import MANIFEST, Damaged, FilesManifest
from cumulus.errors import ObjectChanged
from cumulus.uploader.place import LATEST, STEPS, CheckpointName, Place, StoredFile

STALE_SECONDS = 86400.0
"""What was begun so long ago and never committed is deleted."""


class Superseded(Exception):
    """A later attempt, with a greater fencing token, has saved here: what this one saves is of no use any more."""

    def __init__(self, token: int, newer: CheckpointName) -> None:
        super().__init__(f"a later attempt (token {newer.token}, this one: {token}) has saved step {newer.step}")


@dataclass(frozen=True)
class Committed:
    name: CheckpointName
    size: int
    """Of its files, in bytes, as the place lists them."""
    age: float
    """Seconds since it was committed."""


def committed(place: Place) -> list[Committed]:
    """Those that have a manifest, newest first. Whether they are whole is seen when they are fetched."""
    found = []
    for name, files in _by_name(place).items():
        manifest = files.get(name.manifest)
        if manifest is not None:
            size = sum(file.size for key, file in files.items() if key != name.manifest)
            found.append(Committed(name, size, manifest.age))
    return sorted(found, key=lambda one: one.name, reverse=True)


def manifest_of(place: Place, name: CheckpointName) -> FilesManifest:
    """Raises Damaged."""
    found = place.read(name.manifest)
    if found is None:
        raise Damaged(name.step, MANIFEST, "is missing")
    manifest = FilesManifest.decode(found[0], name.step)
    if manifest.token != name.token:
        raise Damaged(name.step, MANIFEST, f"is of token {manifest.token}, not {name.token}")
    return manifest


def latest(place: Place) -> tuple[CheckpointName | None, str]:
    """What `latest` names, None where it is missing or damaged, and its version, "" where it is missing."""
    found = place.read(LATEST)
    if found is None:
        return None, ""
    try:
        document = json.loads(found[0])
        step, token = document["step"], document["token"]
        if type(step) is not int or type(token) is not int:
            raise ValueError
        return CheckpointName(token, step), found[1]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, found[1]


def check_token(place: Place, token: int) -> None:
    """Raises Superseded."""
    newest, _ = latest(place)
    if newest is not None and newest.token > token:
        raise Superseded(token, newest)


def move_latest(place: Place, name: CheckpointName, manifest: bytes) -> None:
    """Make `latest` name that commit, unless it names a newer one. Raises Superseded."""
    document = {"format": 1, "step": name.step, "token": name.token, "manifest": hashlib.sha256(manifest).hexdigest()}
    while True:
        there, version = latest(place)
        if there is not None and there.token > name.token:
            raise Superseded(name.token, there)
        if there is not None and there >= name:
            return None
        try:
            return place.put(LATEST, json.dumps(document).encode() + b"\n", version)
        except ObjectChanged:
            continue


def prune(place: Place, keep: int, newest: CheckpointName) -> list[CheckpointName]:
    """Delete all committed checkpoints but the `keep` newest, and what was begun long ago and never committed. The
    `newest`, which was just committed or verified, stays."""
    gone = []
    kept = 0
    for name, files in sorted(_by_name(place).items(), reverse=True):
        if name.manifest in files:
            kept += 1
            if kept <= keep or name >= newest:
                continue
        elif min(file.age for file in files.values()) < STALE_SECONDS:
            continue
        # First the manifest, so that nobody takes half of it for a checkpoint.
        if name.manifest in files:
            place.delete([name.manifest])
            gone.append(name)
        place.delete([key for key in files if key != name.manifest])
    place.abandon(STALE_SECONDS)
    return gone


def _by_name(place: Place) -> Mapping[CheckpointName, dict[str, StoredFile]]:
    by_name: dict[CheckpointName, dict[str, StoredFile]] = {}
    for file in place.list(STEPS):
        name = CheckpointName.of(file.key)
        if name is not None:
            by_name.setdefault(name, {})[file.key] = file
    return by_name
