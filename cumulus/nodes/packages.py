"""Packs what the uploader of checkpoints needs for s3:// on a worker: boto3, as it is installed here. The worker
downloads nothing, and the same packages give the same bytes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

WANTED = "boto3"
_SERVICES = ("s3", "sts", "sso", "sso-oidc", "signin")
"""Of those that botocore describes, a hundred megabytes in all: S3, and where keys come from."""
_LEFT_OUT = re.compile(r"\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json)$|/__pycache__/|\.pyc$")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*(;.*)?")
_COMPILED = (".so", ".pyd", ".dylib")
_FIRST_TIME = (1980, 1, 1, 0, 0, 0)


def pack(archive: Path) -> bool:
    """Write the archive. False where this installation has no boto3, or one that runs on this kind of machine alone."""
    try:
        files = dict(_files())
    except PackageNotFoundError:
        return False
    if not files or any(name.endswith(_COMPILED) for name in files):
        return False
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for name in sorted(files):
            made.writestr(zipfile.ZipInfo(name, _FIRST_TIME), files[name].read_bytes(), zipfile.ZIP_DEFLATED)
    return True


def _files() -> Iterator[tuple[str, Path]]:
    for found in _needed(WANTED, {}).values():
        for file in found.files or ():
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or _LEFT_OUT.search(str(path)) or not _is_wanted(path):
                continue
            yield str(path), Path(str(found.locate_file(file)))


def _is_wanted(path: PurePosixPath) -> bool:
    if path.parts[:2] not in (("botocore", "data"), ("boto3", "data"), ("boto3", "examples")):
        return True
    return len(path.parts) == 3 or (path.parts[1] == "data" and path.parts[2] in _SERVICES)


def _needed(name: str, known: dict[str, Distribution]) -> Mapping[str, Distribution]:
    """The distribution and all that it stands on, without extras."""
    if name not in known:
        known[name] = distribution(name)
        for requirement in known[name].requires or ():
            match = _REQUIREMENT.match(requirement)
            if match is not None and "extra" not in (match[2] or ""):
                try:
                    _needed(re.sub(r"[-_.]+", "-", match[1]).lower(), known)
                except PackageNotFoundError:
                    # For another Python or system: what is needed here is installed here.
                    continue
    return known
