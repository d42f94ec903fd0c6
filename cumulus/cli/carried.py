"""`cumulus run --sync`: this directory goes to the job's node, and what the program changed there comes back.

run: an archive of the directory, with a list of what is in it -> the program's input -> tar there -> the program
the end: what differs from the list, as the node tells it -> files here, over none that was changed meanwhile
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import posixpath
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from cumulus.answers.carried import ChangedBytes, ChangedFile, ChangesFound, GoneFile, StayingFile
from cumulus.cli import context, terminal
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.ignored import ALWAYS, Ignored
from cumulus.resources import quantity
from cumulus.resources.key import Key
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.answers.carried import ChangePiece

MOST = "256Mi"
"""What goes along, and what comes back, at most, where nobody says how much."""
UNPACK = ("/bin/sh", "-c", 'tar -xof - && exec "$@" </dev/null', "sh")
"""Before the program and its arguments."""
_LIST = ".cumulus-sync"
"""See `cumulus.uploader.changed`, which reads it there."""
_SHOWN, _LARGEST = 20, 8
"""Files that are named: of those that came back, and of those that are too much."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _File(NamedTuple):
    name: str
    path: Path
    status: os.stat_result


def check_here() -> None:
    """Raises UsageError where links and modes are not Unix's."""
    if sys.platform == "win32":
        raise UsageError("--sync takes a directory of Unix", hint="cumulus cp copies files")


def limit(text: str) -> int:
    """Of --sync-limit. Raises UsageError."""
    try:
        return quantity.parse_bytes(text or MOST)
    except ValueError as error:
        raise UsageError(f"--sync-limit: {error}") from None


def packed(directory: Path, most: int) -> IO[bytes]:
    """The archive of what travels, to be read from its beginning. Raises UsageError where it is more than `most`."""
    files, links = _travelling(directory)
    size = sum(file.status.st_size for file in files)
    if size > most:
        largest = sorted(files, key=lambda file: -file.status.st_size)[:_LARGEST]
        named = ", ".join(f"{file.name} ({quantity.format_bytes(file.status.st_size)})" for file in largest)
        raise UsageError(
            f"--sync: {directory} has {quantity.format_bytes(size)}, more than {quantity.format_bytes(most)}; the "
            f"largest files are {named}",
            hint="name what need not travel in .cumulusignore, or raise --sync-limit",
        )
    archive = tempfile.TemporaryFile()  # noqa: SIM115 (whoever gets it reads it)
    held: dict[str, list[int]] = {}
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as entries:
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            entries.addfile(entry)
        for file in files:
            entry, at = tarfile.TarInfo(file.name), max(0, int(file.status.st_mtime))
            entry.mode, entry.mtime = file.status.st_mode & 0o777, at
            try:
                with open(file.path, "rb") as content:
                    entry.size = os.fstat(content.fileno()).st_size
                    entries.addfile(entry, content)
            except OSError as error:
                why = error.strerror or "changed while it was read"
                raise UsageError(f"--sync: {file.path}: {why}", hint="name it in .cumulusignore") from None
            held[file.name] = [entry.size, at]
        said = json.dumps({"files": held, "skip": list(ALWAYS)}).encode()
        entry = tarfile.TarInfo(_LIST)
        entry.size = len(said)
        entries.addfile(entry, io.BytesIO(said))
    archive.seek(0)
    verb = "goes" if len(files) == 1 else "go"
    terminal.note(f"{_count(len(files))} of {directory} {verb} along: {quantity.format_bytes(size)}.")
    return archive


def _travelling(directory: Path) -> tuple[list[_File], list[tuple[str, str]]]:
    """Its files, and the links in it that lead to no other place. What cannot be carried is told."""
    ignored = Ignored(directory)
    files: list[_File] = []
    links: list[tuple[str, str]] = []
    left_out: list[str] = []
    for root, directories, names in os.walk(directory):
        here = Path(root)
        linked = [name for name in directories if (here / name).is_symlink()]
        directories[:] = sorted(
            name for name in directories if name not in linked and not ignored.leaves_out(here / name, True)
        )
        for each in sorted([*names, *linked]):
            path = here / each
            name = path.relative_to(directory).as_posix()
            if name == _LIST or ignored.leaves_out(path, False):
                continue
            if path.is_symlink() and _leads_inside(name, target := os.readlink(path)):
                links.append((name, target))
            elif path.is_file() and not path.is_symlink() and _is_text(name):
                files.append(_File(name, path, path.lstat()))
            else:
                left_out.append(name)
    if left_out:
        terminal.note("These do not go along, since they are no files, or links that lead elsewhere:")
        _name([f"  {name}" for name in left_out])
    return files, links


def _leads_inside(name: str, target: str) -> bool:
    leads_to = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    inside = not target.startswith("/") and leads_to != ".." and not leads_to.startswith("../")
    return inside and _is_text(name) and _is_text(target)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def bring_back(key: Key, directory: Path, most: int) -> None:
    """Put what the job changed into the directory, once the job is over. Raises CumulusError."""
    again = f"cumulus attach --sync {key.name}"
    with context.client() as client:
        if not BY_NAME[key.kind].over(client.get(key)):
            terminal.note(f"What it changes stays on its node until the job is deleted. To fetch it: {again}")
            return
        pieces = iter(client.changes(key, most=most))
        found = next(pieces, None)
        if not isinstance(found, ChangesFound):
            raise CumulusError("the server does not say what the job changed")
        if found.sent:
            _Bringing(directory, key.name).take(pieces)
            return
        changed = [piece for piece in pieces if isinstance(piece, ChangedFile)]
    changed.sort(key=lambda file: -file.size)
    named = ", ".join(f"{file.path} ({quantity.format_bytes(file.size)})" for file in changed[:_LARGEST])
    raise CumulusError(
        f"what it changed is {quantity.format_bytes(found.size)}, more than {quantity.format_bytes(most)}, and stays "
        f"in {found.path} on {found.node} until the job is deleted; the largest files are {named}",
        hint=f"{again} --sync-limit {-(-found.size // 2**20)}Mi",
    )


class _Bringing:
    """Writes into a directory what comes: never through a link, never outside of it, and over nothing that somebody
    changed here meanwhile: what the job has goes beside that."""

    def __init__(self, directory: Path, job: str) -> None:
        self._directory = directory
        self._job = job
        self._came: list[str] = []

    def take(self, pieces: Iterator[ChangePiece]) -> None:
        gone: list[str] = []
        stays: list[str] = []
        try:
            for piece in pieces:
                match piece:
                    case ChangedFile():
                        self._write(piece, pieces)
                    case GoneFile(path):
                        gone.append(f"  {path}")
                    case StayingFile(path):
                        stays.append(f"  {path}")
                    case _:
                        raise CumulusError("what the job changed does not come as it should")
        finally:
            terminal.note(f"{_count(len(self._came))} came back{':' if self._came else '.'}")
            _name(self._came)
        for words, paths in (("The job deleted these, which stay here:", gone), ("These stay on its node:", stays)):
            if paths:
                terminal.note(words)
                _name(paths)

    def _write(self, file: ChangedFile, pieces: Iterator[ChangePiece]) -> None:
        target = self._place(file)
        made = target.with_name(f".cumulus-{os.urandom(8).hex()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(made, _NEW, 0o600), "wb") as out:
                for data in _content(file, pieces):
                    out.write(data)
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(out.fileno(), (file.mode & 0o777 & ~mask) | 0o600)
            with contextlib.suppress(OverflowError, OSError):
                os.utime(made, ns=(file.changed, file.changed))
            os.replace(made, target)
        except OSError as error:
            raise CumulusError(f"{target} cannot be written: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)
        name = target.relative_to(self._directory).as_posix()
        beside = f" ({file.path} was changed here meanwhile)" if name != file.path else ""
        self._came.append(f"  {name} {quantity.format_bytes(file.size)}{beside}")

    def _place(self, file: ChangedFile) -> Path:
        """Raises CumulusError for one that would lie elsewhere."""
        words = file.path.split("/")
        if not all(words) or {".", ".."} & set(words) or "\0" in file.path:
            raise CumulusError(f"the job has a file that would lie outside of {self._directory}: {file.path}")
        place = self._directory
        for word in words[:-1]:
            place = place / word
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise CumulusError(f"{place} is no directory here, as it is there", hint="move it, and fetch again")
        target = place / words[-1]
        try:
            status = target.lstat()
        except OSError:
            return target
        as_carried = (status.st_size, int(status.st_mtime)) == (file.size_before, file.changed_before)
        if as_carried and target.is_file() and not target.is_symlink():
            return target
        return self._free(target)

    def _free(self, target: Path) -> Path:
        number, place = 1, target.with_name(f"{target.name}.{self._job}")
        while os.path.lexists(place):
            number += 1
            place = target.with_name(f"{target.name}.{self._job}.{number}")
        return place


def _content(file: ChangedFile, pieces: Iterator[ChangePiece]) -> Iterator[bytes]:
    left = file.size
    while left:
        piece = next(pieces, None)
        if not isinstance(piece, ChangedBytes) or not piece.data or len(piece.data) > left:
            raise CumulusError("what the job changed did not come whole")
        left -= len(piece.data)
        yield piece.data


def _count(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"


def _name(lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        terminal.note(line)
    if lines[_SHOWN:]:
        terminal.note(f"  and {len(lines) - _SHOWN} more")
