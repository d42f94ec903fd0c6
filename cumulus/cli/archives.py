"""Files on their way from and to a job, as tar archives. What comes from a job is nobody's to trust: whatever would lie
outside its target is refused, and nothing is there before the whole of it is."""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO

from cumulus.errors import CumulusError, UsageError

_READ = 2**20


class RefusedEntry(CumulusError):
    """An entry of an archive would lie, or lead, outside the target."""


def unpack(archive: BinaryIO, base: str, target: Path, is_whole: Callable[[], bool] = lambda: True) -> None:
    """The entry `base` of the archive as `target`, with all below it. An old file there is replaced, a directory is
    not. `is_whole` is asked at the end: an archive that was cut off between two entries looks like a shorter one.
    Raises RefusedEntry, UsageError, CumulusError for what is no archive, OSError."""
    if target.is_dir():
        raise UsageError(f"{target} is a directory already", hint="name one that is not there, or delete it first")
    if os.path.lexists(target) and not target.is_file():
        raise UsageError(f"{target} is no file, so nothing is put in its place")
    # Of a name that nobody can guess, and nobody else's to read until its files have their modes.
    place = Path(tempfile.mkdtemp(prefix=".cumulus-cp-", dir=target.parent))
    made = place / target.name
    try:
        _unpack(archive, base, made)
        while archive.read(_READ):
            pass
        if not is_whole():
            raise CumulusError("not all of it came", hint="nothing was copied")
        os.replace(made, target)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise CumulusError(f"what came is no whole archive: {error}") from None
    finally:
        shutil.rmtree(place)


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
    links: list[tuple[Path, tarfile.TarInfo]] = []
    directories: list[tuple[Path, int]] = []
    files: dict[tuple[str, ...], Path] = {}
    with tarfile.open(fileobj=archive, mode="r|", bufsize=_READ) as entries:
        for entry in entries:
            parts = _parts(entry.name, base)
            place = made.joinpath(*parts)
            if entry.isdir():
                place.mkdir(parents=True, exist_ok=True)
                directories.append((place, entry.mode))
            elif entry.issym():
                _check_inside(entry, parts)
                links.append((place, entry))
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
    for place, entry in links:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(entry.linkname)
    # Once all are there: a link that leads through others leads elsewhere than its words say.
    root = os.path.realpath(made)
    for place, entry in links:
        if not f"{os.path.realpath(place)}/".startswith(f"{root}/"):
            raise _leads_out(entry)
    for place, mode in directories:
        os.chmod(place, _mode(mode) | 0o700)
    if not os.path.lexists(made):
        raise CumulusError("nothing came")


def _write(entries: tarfile.TarFile, entry: tarfile.TarInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    content = entries.extractfile(entry)
    assert content is not None
    # Never through what is there already.
    with open(place, "xb") as file:
        if entry.issparse():
            _copy_with_holes(content, file)
        else:
            shutil.copyfileobj(content, file, _READ)
    os.chmod(place, _mode(entry.mode) | 0o600)
    with contextlib.suppress(ValueError, OverflowError):
        os.utime(place, (entry.mtime, entry.mtime))


def _copy_with_holes(content: IO[bytes], file: BinaryIO) -> None:
    """Holes stay holes: there may be more of them than there is disk."""
    while data := content.read(_READ):
        if data.strip(b"\0"):
            file.write(data)
        else:
            file.seek(len(data), os.SEEK_CUR)
    file.truncate(file.tell())


def _mode(given: int) -> int:
    mask = os.umask(0)
    os.umask(mask)
    return given & 0o777 & ~mask


def _parts(name: str, base: str) -> tuple[str, ...]:
    """Where the entry is below `base`. Raises RefusedEntry."""
    words = [word for word in name.split("/") if word not in ("", ".")]
    first = [] if base == "." else [base]
    if name.startswith("/") or ".." in words or words[: len(first)] != first or "\\" in name or "\0" in name:
        raise RefusedEntry(f"the archive has an entry outside of {base}: {name}", hint="nothing was copied")
    return tuple(words[len(first) :])


def _check_inside(entry: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
    """Raises RefusedEntry for a symbolic link that leads out of the target by its own words."""
    leads_to = posixpath.normpath(posixpath.join(*parts[:-1], entry.linkname)) if parts else ".."
    if entry.linkname.startswith("/") or leads_to == ".." or leads_to.startswith("../"):
        raise _leads_out(entry)


def _leads_out(entry: tarfile.TarInfo) -> RefusedEntry:
    return _refused(entry, f"leads out of what is copied, to {entry.linkname}")


def _refused(entry: tarfile.TarInfo, why: str) -> RefusedEntry:
    return RefusedEntry(f"{entry.name} {why}", hint="nothing was copied")
