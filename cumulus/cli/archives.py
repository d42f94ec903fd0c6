"""Files on their way from and to a job, as tar archives. What comes from a job is nobody's to trust: whatever would lie
outside its target is refused, and nothing is there before the whole of it is."""

from __future__ import annotations

import os
import posixpath
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from cumulus.errors import CumulusError, UsageError

_READ = 2**20


class RefusedEntry(CumulusError):
    """An entry of an archive would lie, or lead, outside the target."""


def unpack(archive: BinaryIO, base: str, target: Path) -> None:
    """The entry `base` of the archive as `target`, with all below it. An old file there is replaced, a directory is
    not. Raises RefusedEntry, UsageError, CumulusError for what is no archive, OSError."""
    if target.is_dir():
        raise UsageError(f"{target} is a directory already", hint="name one that is not there, or delete it first")
    made = target.with_name(f".{target.name}.{os.getpid()}")
    _remove(made)
    try:
        _unpack(archive, base, made)
        os.replace(made, target)
    except (tarfile.TarError, EOFError) as error:
        raise CumulusError(f"what came is no whole archive: {error}") from None
    finally:
        _remove(made)


def pack(source: Path, name: str, archive: BinaryIO) -> None:
    """The file or directory as the entry `name` of an archive, links as links. Raises OSError."""
    with tarfile.open(fileobj=archive, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_READ) as made:
        made.add(source, name, filter=_nobodys)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Whose it is here means nothing there. Sockets, pipes and devices stay here."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry if entry.isfile() or entry.isdir() or entry.issym() or entry.islnk() else None


def _unpack(archive: BinaryIO, base: str, made: Path) -> None:
    links: list[tuple[Path, str]] = []
    files: dict[tuple[str, ...], Path] = {}
    with tarfile.open(fileobj=archive, mode="r|", bufsize=_READ) as entries:
        for entry in entries:
            parts = _parts(entry.name, base)
            place = made.joinpath(*parts)
            if entry.isdir():
                place.mkdir(parents=True, exist_ok=True)
            elif entry.issym():
                links.append((place, _inside(entry, parts)))
            elif entry.islnk():
                first = files.get(_parts(entry.linkname, base))
                if first is None:
                    raise _refused(entry, "is a link to what did not come before it")
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(first, place)
            elif entry.isfile():
                files[parts] = place
                _write(entries, entry, place)
            else:
                raise _refused(entry, "is neither a file, a directory nor a link")
    # Last, so that nothing is written through one of them.
    for place, leads_to in links:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(leads_to)
    if not os.path.lexists(made):
        raise CumulusError("nothing came")


def _write(entries: tarfile.TarFile, entry: tarfile.TarInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    content = entries.extractfile(entry)
    assert content is not None
    # Never through what is there already.
    with open(place, "xb") as file:
        shutil.copyfileobj(content, file, _READ)
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(place, entry.mode & 0o777 & ~mask | 0o600)
    os.utime(place, (entry.mtime, entry.mtime))


def _parts(name: str, base: str) -> tuple[str, ...]:
    """Where the entry is below `base`. Raises RefusedEntry."""
    words = [word for word in name.split("/") if word not in ("", ".")]
    first = [] if base == "." else [base]
    if name.startswith("/") or ".." in words or words[: len(first)] != first or "\\" in name or "\0" in name:
        raise RefusedEntry(f"the archive has an entry outside of {base}: {name}", hint="nothing was copied")
    return tuple(words[len(first) :])


def _inside(entry: tarfile.TarInfo, parts: tuple[str, ...]) -> str:
    """Where a symbolic link leads, if that stays below the target."""
    leads_to = posixpath.normpath(posixpath.join(*parts[:-1], entry.linkname)) if parts else ".."
    if entry.linkname.startswith("/") or leads_to == ".." or leads_to.startswith("../"):
        raise _refused(entry, f"leads out of what is copied, to {entry.linkname}")
    return entry.linkname


def _refused(entry: tarfile.TarInfo, why: str) -> RefusedEntry:
    return RefusedEntry(f"{entry.name} {why}", hint="nothing was copied")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
