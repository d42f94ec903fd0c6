"""Checkpoints on a node's disk (L1): their names, their manifests, and which of them are whole.

    PATH/step-000000000042/…files…       a checkpoint; `manifest.json` in it was written last
    PATH/step-000000000042/rank-3/…      what rank 3 of a gang wrote; one manifest is for all ranks
    PATH/.tmp-000000000042-1a2b3c4d/…    being written (see `writing`), or left by a writer that died

A reader believes a checkpoint only if its manifest and every file match, byte for byte. Nothing here follows a link
below PATH, or believes what another user owns or may write. Standard library only, Python 3.9 and later.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

MANIFEST = "manifest.json"
FORMAT = 1
TEMPORARY = ".tmp-"
"""How the names begin of what is not, or no more, a checkpoint. Readers never look into it."""
LARGEST_MANIFEST = 64 * 2**20

_STEP = re.compile(r"step-([0-9]{12})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
OPEN_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
"""Flags: no link is followed, and none waits for whoever is at the other end of a pipe."""
_NO_FILE = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)
_CHUNK = 2**20
_LONGEST_WORD = 500


class CheckpointError(Exception):
    """What is wrong with checkpoints, in one sentence for people."""


class Damaged(CheckpointError):
    """A checkpoint that must not be used: which step, which file of it, and what is wrong."""

    def __init__(self, step: int, file: str, problem: str) -> None:
        # A manifest may hold names and values of any length.
        self.step, self.file, self.problem = step, _short(file), _short(problem)
        super().__init__(f"checkpoint of step {step}: {self.file}: {self.problem}")


@dataclass(frozen=True)
class File:
    """One file of a checkpoint; `path` is relative to the checkpoint, with `/`."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class FilesManifest:
    """What makes a checkpoint whole."""

    step: int
    saved_at: str
    """RFC 3339, UTC, for people."""
    seconds: float
    """How long the save took."""
    world: int
    """How many ranks wrote it."""
    attempt: int
    token: int
    """The fencing token of the lease under which it was written; 0 outside of a lease."""
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """The only bytes that `decode` takes for this manifest: none of them can change unnoticed."""
        document = {
            "format": FORMAT,
            "step": self.step,
            "savedAt": self.saved_at,
            "seconds": self.seconds,
            "world": self.world,
            "attempt": self.attempt,
            "token": self.token,
            "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files],
        }
        document["digest"] = hashlib.sha256(_json(document)).hexdigest()
        return _json(document) + b"\n"

    @classmethod
    def decode(cls, content: bytes, step: int) -> FilesManifest:
        """The manifest of `step`. Raises `Damaged`."""
        try:
            document = json.loads(content)
            if document["format"] != FORMAT:
                raise Damaged(step, MANIFEST, f"format {document['format']!r}, where {FORMAT} is known")
            manifest = cls(
                step=_number(document["step"]),
                saved_at=_matching(document["savedAt"], _TIME),
                seconds=_seconds(document["seconds"]),
                world=_number(document["world"]),
                attempt=_number(document["attempt"]),
                token=_number(document["token"]),
                files=tuple(
                    File(file["path"], _number(file["size"]), _matching(file["sha256"], _SHA256))
                    for file in document["files"]
                ),
            )
            paths = [file.path for file in manifest.files]
            unsafe = next((path for path in paths if not is_safe(path)), None)
            if unsafe is not None or len({*paths}) != len(paths):
                raise ValueError(f"no path in a checkpoint, or one that is there twice: {unsafe!r}")
            same = manifest.encode() == content
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Damaged(step, MANIFEST, f"is no manifest: {error}") from error
        if not same:
            raise Damaged(step, MANIFEST, "does not match its digest")
        if manifest.step != step:
            raise Damaged(step, MANIFEST, f"is the one of step {manifest.step}")
        return manifest


class Checkpoint(NamedTuple):
    """A checkpoint that was found whole."""

    step: int
    path: str
    """Its directory."""
    manifest: FilesManifest


def is_safe(path: object) -> bool:
    """Whether this is a path of a file in a checkpoint: relative, with no way out of it."""
    if not isinstance(path, str) or not path or path == MANIFEST or "\0" in path or len(path) > 4096:
        return False
    try:
        longest = max(len(os.fsencode(part)) for part in path.split("/"))
    except UnicodeEncodeError:
        return False
    return longest <= 255 and all(part not in ("", ".", "..") for part in path.split("/"))


def step_name(step: int) -> str:
    """The name of the directory of a step. Raises ValueError where it has more than 12 digits or is below 0."""
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 10**12:
        raise ValueError(f"a step is a whole number from 0 to 999999999999, not {step!r}")
    return f"step-{step:012}"


def step_of(name: str) -> int | None:
    """The step whose directory has this name; None where it is no such name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def rank_name(rank: int) -> str:
    """The directory of a rank within the checkpoint of a gang."""
    return f"rank-{rank}"


def directory(path: str, step: int) -> str:
    """Where the checkpoint of `step` is, if there is one."""
    return os.path.join(path, step_name(step))


def steps(path: str) -> list[int]:
    """The steps that have a checkpoint, whole or damaged, newest first; none where there is no such directory. Raises
    OSError."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return []
    return sorted((step for step in map(step_of, names) if step is not None), reverse=True)


def read_manifest(path: str, step: int, *, owner: int | None = -1) -> FilesManifest:
    """What the checkpoint says of itself; its files are not looked at. Raises `Damaged`, OSError.

    `owner`: the user to whom everything in it has to belong; -1 is who asks, None is anybody.
    """
    with _opened(path, step, owner) as top:
        return top.manifest()


def verify(
    path: str, step: int, *, owner: int | None = -1, part: Callable[[str], bool] = lambda path: True
) -> Checkpoint:
    """The checkpoint of `step`, once its manifest and files were found whole. Raises `Damaged` with the name of the
    first file that is not, OSError.

    `part`: which files are read, where several share the work; all the others need only be there.
    """
    with _opened(path, step, owner) as top:
        manifest = top.manifest()
        expected = {file.path: file for file in manifest.files}
        for name, file in expected.items():
            with top.file(name) as descriptor:
                size = os.fstat(descriptor).st_size
                if size != file.size:
                    raise Damaged(step, name, f"has {size} bytes instead of {file.size}")
                if part(name) and sha256_of(descriptor) != file.sha256:
                    raise Damaged(step, name, "does not match its sha256")
        for name in files_below(top.descriptor, step):
            if name not in expected and name != MANIFEST:
                raise Damaged(step, name, "is not in the manifest")
    return Checkpoint(step, directory(path, step), manifest)


def newest(path: str, *, owner: int | None = -1, refused: Callable[[Damaged], None] | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole: all its bytes were read. None where there is none. Raises OSError.

    `refused` is told of each one on the way that is damaged, or that the disk does not give back.
    """
    for step in steps(path):
        try:
            return verify(path, step, owner=owner)
        except Damaged as damaged:
            if refused is not None:
                refused(damaged)
        except FileNotFoundError:
            continue  # Pruned meanwhile.
        except OSError as error:
            if refused is not None:
                refused(Damaged(step, ".", f"can't be read: {error.strerror}"))
    return None


def prune(path: str, keep: int, *, newest: int, refused: frozenset[int] = frozenset()) -> list[int]:
    """Delete all checkpoints but `keep`, and return their steps. Raises OSError.

    `newest` has just been found or made whole: it stays, whatever `keep` says. Steps that were `refused` go first, and
    so do those whose manifest is none.
    """
    others = [step for step in steps(path) if step != newest]
    whole = [step for step in others if step not in refused and _looks_whole(path, step)]
    kept = {newest, *whole[: max(0, keep - 1)]}
    gone = [step for step in others if step not in kept]
    for step in gone:
        delete(path, step)
    return gone


def delete(path: str, step: int) -> None:
    """Delete one checkpoint: gone by name first, so that nobody finds half of it. Raises OSError."""
    doomed = os.path.join(path, temporary_name(step))
    try:
        os.rename(directory(path, step), doomed)
    except FileNotFoundError:
        return
    # Where this dies here, the next writer clears the rest away.
    remove_tree(doomed)


def remove_tree(path: str) -> None:
    """Delete a directory, or the link or file that is in its place; no error where it is gone. Raises OSError."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def temporary_name(step: int) -> str:
    """A new name for what is not, or no more, the checkpoint of `step`."""
    return f"{TEMPORARY}{step:012}-{secrets.token_hex(4)}"


def sha256_of(descriptor: int) -> str:
    """The digest of an open file, from its beginning. Raises OSError."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        digest.update(buffer[:count])
        offset += count
    return digest.hexdigest()


def files_below(top: int, step: int) -> Iterator[str]:
    """The paths of all files below an open directory. Raises `Damaged` where one is neither file nor directory."""
    for root, directories, files, descriptor in os.fwalk(".", dir_fd=top, follow_symlinks=False):
        for name in (*directories, *files):
            path = os.path.normpath(os.path.join(root, name))
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise Damaged(step, path, "is neither a file nor a directory")
            if stat.S_ISREG(mode):
                yield path


@contextlib.contextmanager
def opened_file(checkpoint: Checkpoint, path: str, *, owner: int | None = -1) -> Iterator[int]:
    """One file of a checkpoint as a descriptor for reading, with no link followed on the way. Raises `Damaged`,
    OSError."""
    with _opened(os.path.dirname(checkpoint.path), checkpoint.step, owner) as top, top.file(path) as descriptor:
        yield descriptor


class _Directory:
    """The open directory of one checkpoint. Raises `Damaged` for whatever in it is not the owner's."""

    def __init__(self, descriptor: int, step: int, owner: int | None) -> None:
        self.descriptor = descriptor
        self._step = step
        self._owner = os.geteuid() if owner == -1 else owner
        status = os.fstat(descriptor)
        self._closed = not status.st_mode & 0o011
        """No other user can go into it, so that the modes within do not count."""
        self._check(status, ".")

    @contextlib.contextmanager
    def file(self, path: str) -> Iterator[int]:
        """A regular file, open for reading."""
        opened = [self.descriptor]
        try:
            *parents, name = path.split("/")
            for parent in parents:
                opened.append(self._open(parent, opened[-1], path, OPEN_DIRECTORY))
            opened.append(self._open(name, opened[-1], path, OPEN))
            if not stat.S_ISREG(os.fstat(opened[-1]).st_mode):
                raise self._damaged(path, "is no file")
            yield opened[-1]
        finally:
            for descriptor in opened[1:]:
                os.close(descriptor)

    def manifest(self) -> FilesManifest:
        with self.file(MANIFEST) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > LARGEST_MANIFEST:
                raise self._damaged(MANIFEST, f"has {size} bytes, more than any manifest")
            content = b""
            while chunk := os.pread(descriptor, LARGEST_MANIFEST, len(content)):
                content += chunk
        return FilesManifest.decode(content, self._step)

    def _open(self, name: str, parent: int, path: str, flags: int) -> int:
        try:
            descriptor = os.open(name, flags, dir_fd=parent)
        except FileNotFoundError as error:
            raise self._damaged(path, "is missing") from error
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            raise self._damaged(path, "is no file, or on its way is a link, which is not followed") from error
        try:
            self._check(os.fstat(descriptor), path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, status: os.stat_result, path: str) -> None:
        if self._owner is None:
            return
        if status.st_uid != self._owner:
            raise self._damaged(path, f"belongs to user {status.st_uid}, not to user {self._owner}")
        if (not self._closed or path == ".") and status.st_mode & 0o022:
            raise self._damaged(path, "may be written by other users")

    def _damaged(self, path: str, problem: str) -> Damaged:
        return Damaged(self._step, path, problem)


@contextlib.contextmanager
def _opened(path: str, step: int, owner: int | None) -> Iterator[_Directory]:
    try:
        descriptor = os.open(directory(path, step), OPEN_DIRECTORY)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise Damaged(step, ".", "is no directory: links are not followed") from error
    try:
        yield _Directory(descriptor, step, owner)
    finally:
        os.close(descriptor)


def _looks_whole(path: str, step: int) -> bool:
    """Whether the manifest and the sizes of the files are right. Their bytes are not read."""
    try:
        verify(path, step, part=lambda name: False)
    except (Damaged, OSError):
        return False
    return True


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_WORD else f"{text[:_LONGEST_WORD]}…"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"no whole number from 0 on: {value!r}")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise ValueError(f"no seconds: {value!r}")
    return float(value)


def _matching(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"not as it should be: {value!r}")
    return value
