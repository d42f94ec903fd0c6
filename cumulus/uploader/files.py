"""Reads the files of a job on this machine, as the user whose job it is: `python -I files.py`. Of its checkpoints:

    list PATH            a line of JSON for each: what its manifest tells, or what is wrong with it
    copied PATH          how far the copy beyond this machine is, as the uploader tells
    verify PATH STEP…    the same, after every byte was read
    send PATH STEP       its manifest and files: a line of JSON with a size before the bytes of each
    receive PATH         put there what `send` sent, which follows on standard input, once it is found whole
    adopt PATH           the same with another job's: all that this job saves is newer
    prune PATH KEEP      delete all but so many whole ones, and tell the steps; the newest whole one stays

Of a directory that was carried to it:

    changed PATH MOST    what its program changed there, and the content where that is not more bytes: see `changed`

The user is the first line of standard input, as JSON; null for who starts it, "owner" for whoever PATH belongs to.
All is loaded before it becomes that user, who need not be able to read Cumulus. Exit code 3: a line of JSON says what
is wrong; with "damaged" where it is a checkpoint that is not whole, with "sent" where who was to send it said so of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any

if __name__ == "__main__":
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.checkpoint import layout
from cumulus.lib.files import sync_directory, write_durably
from cumulus.lib.unix_user import UnixUser, become
from cumulus.uploader import changed, status
from cumulus.uploader.owner import OWNER, owner_of

_CHUNK = 2**20
_LONGEST_LINE = 64 * 2**10
BREATH = 10.0
"""Seconds between two signs of life."""


class SentNone(layout.CheckpointError):
    """Who was to send it says that it is not whole."""


def main(arguments: Sequence[str]) -> int:
    verb, path, *more = arguments
    os.umask(0o077)
    try:
        given = json.loads(sys.stdin.buffer.readline(_LONGEST_LINE))
        user = owner_of(path) if given == OWNER else UnixUser.read(given)
        if user is not None and user.uid != os.geteuid():
            become(user)
        _VERBS[verb](path, more)
    except SentNone as error:
        _say({"error": str(error), "sent": True})
        return 3
    except layout.CheckpointError as error:
        _say({"error": str(error), "damaged": True})
        return 3
    except OSError as error:
        _say({"error": f"{path}: {error.strerror}"})
        return 3
    return 0


def _list(path: str, steps: Sequence[str]) -> None:
    for step in layout.steps(path):
        _tell(step, partial(layout.read_manifest, path, step))


def _copied(path: str, _: Sequence[str]) -> None:
    found = status.read(path)
    if found is None:
        return
    _say(
        {
            "step": found.step, "size": found.size, "at": found.uploaded_at, "copying": found.uploading,
            "problem": found.error,
        }
    )  # fmt: skip


def _verify(path: str, steps: Sequence[str]) -> None:
    for step in map(int, steps) if steps else layout.steps(path):
        _tell(step, partial(_verified, path, step))


def _verified(path: str, step: int) -> layout.FilesManifest:
    return layout.verify(path, step).manifest


def _send(path: str, steps: Sequence[str]) -> None:
    try:
        with _breathing():
            found = layout.verify(path, int(steps[0])) if steps else layout.newest(path)
        if found is None:
            raise layout.CheckpointError(f"there is no whole checkpoint in {path}")
        content = found.manifest.encode()
        _say({"step": found.step, "size": len(content)})
        _write(content)
        for file in found.manifest.files:
            _say({"path": file.path, "size": file.size})
            _send_file(found, file)
    except FileNotFoundError:
        which = f"of step {steps[0]} " if steps else ""
        raise layout.CheckpointError(f"there is no checkpoint {which}in {path}, or not any more") from None


def _send_file(found: layout.Checkpoint, file: layout.File) -> None:
    with layout.opened_file(found, file.path) as descriptor:
        left = file.size
        while left:
            chunk = os.read(descriptor, min(_CHUNK, left))
            if not chunk:
                raise layout.Damaged(found.step, file.path, "became shorter while it was sent")
            _write(chunk)
            left -= len(chunk)


@contextlib.contextmanager
def _breathing() -> Iterator[None]:
    """Blanks before the next line of JSON: many bytes are read before the first one is sent, and who waits for it takes
    this program for dead where it says nothing."""
    read = threading.Event()

    def breathe() -> None:
        with contextlib.suppress(OSError):  # Nobody waits any more: the next line finds that too.
            while not read.wait(BREATH):
                _write(b" ")

    thread = threading.Thread(target=breathe, name="breath", daemon=True)
    thread.start()
    try:
        yield
    finally:
        read.set()
        thread.join()


def _adopt(path: str, _: Sequence[str]) -> None:
    _receive(path, _, adopt=True)


def _receive(path: str, _: Sequence[str], *, adopt: bool = False) -> None:
    """What is cut off, or is not what its manifest says, leaves nothing."""
    given = sys.stdin.buffer
    head = _line(given)
    manifest = layout.FilesManifest.decode(_exactly(given, int(head["size"])), int(head["step"]))
    os.makedirs(path, 0o700, exist_ok=True)
    made = os.path.join(path, layout.temporary_name(manifest.step))
    os.mkdir(made, 0o700)
    try:
        for file in manifest.files:
            said = _line(given)
            if (said.get("path"), said.get("size")) != (file.path, file.size):
                raise layout.Damaged(manifest.step, file.path, "is not what was sent next")
            _write_file(os.path.join(made, file.path), file, given, manifest.step)
        if adopt:
            # Fencing tokens are of one job.
            manifest = dataclasses.replace(manifest, attempt=0, token=0)
        if _has(path, manifest):
            # Another replica of this node was faster.
            layout.remove_tree(made)
            _say({"step": manifest.step, "size": manifest.size})
            return
        commit(made, path, manifest)
    except BaseException:
        layout.remove_tree(made)
        raise
    _say({"step": manifest.step, "size": manifest.size})


def commit(made: str, path: str, manifest: layout.FilesManifest) -> None:
    """Make a checkpoint of `path` of the directory `made`, which has its files: durable, and whole at once."""
    write_durably(os.path.join(made, layout.MANIFEST), manifest.encode())
    for root, _directories, _files in os.walk(made):
        sync_directory(root)
    # What has this name is damaged, or an older attempt saved it: else nobody had asked.
    layout.delete(path, manifest.step)
    os.rename(made, layout.directory(path, manifest.step))
    sync_directory(path)


def _has(path: str, manifest: layout.FilesManifest) -> bool:
    try:
        return layout.read_manifest(path, manifest.step) == manifest
    except (layout.Damaged, OSError):
        return False


def _write_file(path: str, file: layout.File, given: IO[bytes], step: int) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    digest, left = hashlib.sha256(), file.size
    with open(os.open(path, layout.OPEN_NEW, 0o600), "wb") as target:
        while left:
            chunk = given.read(min(_CHUNK, left))
            if not chunk:
                raise layout.Damaged(step, file.path, "was cut off")
            digest.update(chunk)
            target.write(chunk)
            left -= len(chunk)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != file.sha256:
        raise layout.Damaged(step, file.path, "does not match its sha256")


def _line(given: IO[bytes]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(given.readline(_LONGEST_LINE))
    except ValueError:
        raise layout.CheckpointError("the checkpoint was cut off") from None
    if "error" in found:
        # A disk that gives nothing back today may do so tomorrow.
        raise (SentNone if found.get("damaged") else layout.CheckpointError)(str(found["error"]))
    return found


def _exactly(given: IO[bytes], size: int) -> bytes:
    if size > layout.LARGEST_MANIFEST:
        raise layout.CheckpointError(f"{size} bytes are more than any manifest has")
    return given.read(size)


def _prune(path: str, keep: Sequence[str]) -> None:
    newest = layout.newest(path)
    gone = [] if newest is None else layout.prune(path, max(1, int(keep[0])), newest=newest.step)
    _say({"gone": gone})


def _changed(path: str, most: Sequence[str]) -> None:
    try:
        changed.send(path, int(most[0]), _say, _write)
    except ValueError as error:
        raise layout.CheckpointError(str(error)) from None


def _tell(step: int, read: Callable[[], layout.FilesManifest]) -> None:
    try:
        found = read()
    except FileNotFoundError:
        return  # Pruned meanwhile.
    except layout.Damaged as damaged:
        _say({"step": step, "problem": f"{damaged.file}: {damaged.problem}"})
        return
    except OSError as error:
        _say({"step": step, "problem": f"can't be read: {error.strerror}"})
        return
    _say(
        {
            "step": step, "saved_at": found.saved_at, "size": found.size, "seconds": found.seconds,
            "attempt": found.attempt, "files": len(found.files),
        }
    )  # fmt: skip


def _say(document: Mapping[str, Any]) -> None:
    _write(json.dumps(document).encode() + b"\n")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


_VERBS: Mapping[str, Callable[[str, Sequence[str]], None]] = {
    "list": _list, "copied": _copied, "verify": _verify, "send": _send, "receive": _receive, "adopt": _adopt,
    "prune": _prune, "changed": _changed,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
