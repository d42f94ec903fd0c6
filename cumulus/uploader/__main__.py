"""The uploader as a program; it reads its `Config` as one line from standard input.

    run PATH            copy what is saved in PATH until standard input ends, and what is left then. Further lines have
                        the keys to go on with. Where descriptor 3 is a file, it is locked meanwhile, and gets a line
                        when all is copied
    start PATH PID      the same in a process of its own, until the process PID has ended; 0: what is left now. With
                        `instead` after that it ends the one that is at work, whose keys are old
    check PATH          whether the place can be used
    restore PATH N      put the newest checkpoint that is whole into PATH, unless PATH has one that is as new. The place
                        is not asked where that is of attempt N or a later one: all these ran with this PATH
    prefetch PATH N     the same beside what runs here, given up where standard input ends before that is done
    adopt PATH OTHER    the same with another job's, where neither PATH nor OTHER, its directory on this node, has one
    list PATH           the committed checkpoints
    verify PATH STEP    read every byte of one
    send PATH STEP      what `files send` says, of one there: the newest that is whole where no STEP is given. PATH has
                        room for the largest of its files
    prune PATH KEEP     delete all but so many; the newest is read first, and stays

The answer of all but the first and `send` is one line of JSON. Exit codes: 0; 1: an error, as `{"error": …, "hint": …,
"again": whether it may pass by itself}`; 2: usage. Run by path or by `-m`, with `-I`.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import io
import json
import os
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

if __name__ == "__main__":
    # Also where Cumulus is not installed: run by path.
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import CheckpointError, Damaged, FilesManifest
from cumulus.clock import SystemClock, timestamp
from cumulus.errors import BlobError, BlobStoreUnavailable, BucketRefused, CumulusError, UsageError
from cumulus.lib import cgroup, locks
from cumulus.lib.unix_user import become
from cumulus.uploader import catalog, here, status
from cumulus.uploader.config import Config
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.following import RunFollower
from cumulus.uploader.owner import owner_of, user_of_process
from cumulus.uploader.place import CheckpointName, Place, parse
from cumulus.uploader.restore import fetch_file, restore, verify
from cumulus.uploader.status import UploadStatus

_PR_SET_DUMPABLE = 4
_MOST_CONFIG = 2**20
_NOTE = 3
_CHUNK = 2**20
_END_SECONDS = 5.0
"""For an uploader to end before it is killed. It may be in the middle of a request."""
_LIST_PATIENCE = 5.0
"""Seconds for which a request is tried again where a person waits for a list."""


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say."""
    if len(arguments) < 2 or arguments[0] not in _VERBS:
        sys.stderr.write((__doc__ or "") + "\n")
        return 2
    os.umask(0o077)
    config = Config("")
    try:
        config = Config.decode(_input().readline(_MOST_CONFIG))
        stop = threading.Event()
        told: list[Callable[[BlobError], None]] = []
        config = _as_whom(config, arguments)
        if arguments[0] in ("run", "prefetch"):
            # What trains on this machine, or starts now, comes first: also before what this one loads.
            os.nice(10)
        if arguments[0] in ("restore", "prefetch") and _needs_no_place(config, arguments):
            return 0
        place = _place(config, stop, told, _LIST_PATIENCE if arguments[0] == "list" else None)
        _settle(config)
        return _VERBS[arguments[0]](config, place, arguments[1:], stop, told)
    except (CumulusError, CheckpointError) as error:
        hint = getattr(error, "hint", None) or ""
        again = isinstance(error, BlobStoreUnavailable) and not isinstance(error, BucketRefused)
        _say({"error": str(error), "hint": hint, "again": again})
        if arguments[0] == "run":
            _leave_word(config, arguments[1], f"{error} ({hint})" if hint else str(error))
    except OSError as error:
        _say({"error": f"{error.strerror}: {error.filename}", "hint": "", "again": True})
    return 1


def _input() -> io.FileIO:
    """Standard input without a buffer: each line is whoever's who asks for it, and no lock of a thread that waits for
    the next one is in the way of this process's end."""
    return io.FileIO(0, closefd=False)


def _needs_no_place(config: Config, arguments: Sequence[str]) -> bool:
    """Answer at once where this node is known to have the newest."""
    step = here.step_since(arguments[1], int(arguments[2]), config.user) if len(arguments) > 2 else None
    if step is None:
        return False
    _say({"step": step, "restored": False, "size": 0, "refused": []})
    return True


def _leave_word(config: Config, path: str, error: str) -> None:
    """Show what keeps it from running, where its status is looked for."""
    with contextlib.suppress(OSError):
        _settle(config)
        if layout.steps(path):
            os.makedirs(os.path.join(path, status.DIRECTORY), 0o700, exist_ok=True)
            status.write(path, UploadStatus(config.uri, error=error, error_at=timestamp(SystemClock().now())))


def _place(
    config: Config, stop: threading.Event, told: list[Callable[[BlobError], None]], patience: float | None = None
) -> Place:
    scheme, host, path = parse(config.uri)
    if scheme == "file":
        return DirectoryPlace(path)
    if config.within and not f"{host}/{path}/".startswith(f"{config.within.strip('/')}/"):
        raise UsageError(
            f"the daemon's keys are for s3://{config.within} alone, not for {config.uri}",
            hint="leave checkpoint.uri out, or name a secret with keys of your own in checkpoint.credentials",
        )
    try:
        # Before this becomes the job's user, and not from a directory of theirs.
        import boto3  # noqa: F401
    except ImportError:
        raise UsageError(
            f"this node can't reach {config.uri}: it has no boto3",
            hint="set the node up anew: cumulus node setup, or pip install 'cumulus-chronos[s3]' there",
        ) from None
    from cumulus.blob.s3.client import PATIENCE, S3Client
    from cumulus.uploader.s3_place import S3Place

    def waiting(problem: BlobError) -> None:
        for each in told:
            each(problem)

    client = S3Client(config.bucket(host), patience=patience or PATIENCE, waiting=waiting, stop=stop)
    client.prepare()
    return S3Place(client, path)


def _as_whom(config: Config, arguments: Sequence[str]) -> Config:
    """With the user, where only the container's process or its files tell."""
    if config.user is not None or not config.owner or os.geteuid() != 0:
        return config
    if arguments[0] == "start" and int(arguments[2]):
        with contextlib.suppress(OSError):
            return dataclasses.replace(config, user=user_of_process(int(arguments[2])))
    return dataclasses.replace(config, user=owner_of(arguments[1]))


def _settle(config: Config) -> None:
    """Out of the lease's cgroup, and the job's user from here on. No process of that user may read the memory of this
    one: it may hold keys that are not theirs."""
    cgroup.leave()
    if config.user is not None and os.geteuid() != config.user.uid:
        become(config.user)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _run(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    if not _lock_note():
        return 0  # Another one is at it.
    if not _follow(config, place, arguments[0], stop, told, lambda over: _wait_for_input(over, place)):
        return 1
    with contextlib.suppress(OSError):
        os.pwrite(_NOTE, b"copied\n", 0)
        os.fsync(_NOTE)
    return 0


def _start(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    ended = _opened_process(int(arguments[1]))
    if arguments[2:] == ["instead"]:
        _end_other(arguments[0])
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        _say({"user": config.user})
        return 0
    # A child of nobody's: who asked over SSH waits for all that has its pipes.
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.chdir("/")
    os.nice(10)

    def wait(over: threading.Event) -> None:
        if ended is not None:
            select.select([ended], [], [])
        over.set()

    return 0 if _follow(config, place, arguments[0], stop, told, wait) else 1


def _end_other(path: str) -> None:
    """End the one that is at work on the directory, as its user. What it has sent stays, and is not sent again."""
    lock = os.path.join(path, status.DIRECTORY, "lock")
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in locks.holders(lock):
            with contextlib.suppress(OSError), _opened(pid) as process:
                if pid in locks.holders(lock):
                    signal.pidfd_send_signal(process.fileno(), number)
                    select.select([process], [], [], _END_SECONDS)


def _opened(pid: int) -> io.FileIO:
    return io.FileIO(os.pidfd_open(pid))


def _opened_process(pid: int) -> int | None:
    """What can be waited for until the process has ended; None where it has."""
    if not pid:
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _follow(
    config: Config, place: Place, path: str, stop: threading.Event, told: list[Any],
    wait: Callable[[threading.Event], None],
) -> bool:  # fmt: skip
    over = threading.Event()
    follower = RunFollower(place, path, config.keep, over=over, stop=stop, linger=config.linger)
    told.append(follower.waiting)

    def end(number: int, frame: object) -> None:
        stop.set()
        over.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    # A thread of its own: the program's end is noticed while a file is sent.
    threading.Thread(target=wait, args=(over,), name="end", daemon=True).start()
    return follower.run()


def _lock_note() -> bool:
    try:
        fcntl.flock(_NOTE, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # There is none.
    return True


def _wait_for_input(over: threading.Event, place: Place) -> None:
    """Each further line is a configuration with keys that are to be used from now on."""
    with contextlib.suppress(OSError):
        while line := _input().readline(_MOST_CONFIG):
            with contextlib.suppress(UsageError):
                place.renew(Config.decode(line))
    over.set()


def _check(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    newest, _ = catalog.latest(place)
    _say({"uri": place.uri, "step": None if newest is None else newest.step, "token": newest.token if newest else 0})
    return 0


def _restore(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    with _one_at_a_time(place, arguments[0]):
        refused: list[str] = []
        found = layout.newest(arguments[0], refused=lambda damaged: refused.append(str(damaged)))
        known = None if found is None else CheckpointName(found.manifest.token, found.step)

        def needed(manifest: FilesManifest) -> bool:
            return known is None or CheckpointName(manifest.token, manifest.step) > known

        _fetch(place, arguments[0], refused, None if found is None else found.step, needed)
    return 0


def _prefetch(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    threading.Thread(target=_end_with_input, name="input", daemon=True).start()
    return _restore(config, place, arguments, stop, told)


def _end_with_input() -> None:
    """What was fetched by then is in a directory of no checkpoint, and the next who writes there deletes it."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            continue
    os._exit(1)


def _adopt(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    with _one_at_a_time(place, arguments[0]):
        refused: list[str] = []
        known = next((found for path in arguments[:2] if path and (found := layout.newest(path))), None)
        _fetch(place, arguments[0], refused, None if known is None else known.step, lambda _: known is None, adopt=True)
    return 0


def _fetch(
    place: Place, path: str, refused: list[str], known: int | None, needed: Callable[[FilesManifest], bool],
    adopt: bool = False,
) -> None:  # fmt: skip
    found = restore(
        place, path, refused=lambda damaged: refused.append(f"{place.uri}: {damaged}"), needed=needed, adopt=adopt
    )
    step = known if found is None else found.step
    _say({"step": step, "restored": found is not None, "size": found.size if found else 0, "refused": refused})


@contextlib.contextmanager
def _one_at_a_time(place: Place, path: str) -> Iterator[None]:
    """Replicas on one node share the directory. Nothing is made where nothing is to be fetched: the program may want a
    file of that name."""
    if not catalog.committed(place):
        yield
        return
    os.makedirs(os.path.join(path, status.DIRECTORY), 0o700, exist_ok=True)
    descriptor = os.open(
        os.path.join(path, status.DIRECTORY, "restore"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _list(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    newest, _ = catalog.latest(place)
    items = [
        {"step": one.name.step, "token": one.name.token, "size": one.size, "age": round(one.age, 1),
         "latest": one.name == newest}
        for one in catalog.committed(place)
    ]  # fmt: skip
    _say({"uri": place.uri, "checkpoints": items})
    return 0


def _verify(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    wanted = [one for one in catalog.committed(place) if [str(one.name.step)] == [*arguments[1:]]]
    if not wanted:
        raise UsageError(f"{place.uri} has no checkpoint of that step")
    manifest = verify(place, wanted[0].name, arguments[0])
    _say({"step": manifest.step, "token": manifest.token, "size": manifest.size, "files": len(manifest.files)})
    return 0


def _send(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    names = [one.name for one in catalog.committed(place)]
    wanted = [name for name in names if [str(name.step)] == [*arguments[1:]]] if arguments[1:] else names
    for name in wanted:
        try:
            manifest = verify(place, name, arguments[0]) if len(wanted) > 1 else catalog.manifest_of(place, name)
        except Damaged:
            if name == wanted[-1]:
                raise
            continue
        content = manifest.encode()
        _say({"step": name.step, "size": len(content)})
        _write(content)
        for file in manifest.files:
            with tempfile.TemporaryFile(dir=arguments[0]) as held:
                # Whole before its first byte is sent.
                fetch_file(place, name, file, held.fileno())
                _say({"path": file.path, "size": file.size})
                held.seek(0)
                while chunk := held.read(_CHUNK):
                    _write(chunk)
        return 0
    raise UsageError(f"{place.uri} has no checkpoint{' of that step' if arguments[1:] else ''}")


def _prune(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    for one in catalog.committed(place):
        with contextlib.suppress(Damaged):
            verify(place, one.name, arguments[0])
            gone = catalog.prune(place, max(1, int(arguments[1])), one.name)
            _say({"gone": [name.step for name in gone]})
            return 0
    raise UsageError(f"{place.uri} has no checkpoint that is whole: nothing is deleted")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


_VERBS = {
    "run": _run, "start": _start, "check": _check, "restore": _restore, "prefetch": _prefetch, "adopt": _adopt,
    "list": _list, "verify": _verify, "send": _send, "prune": _prune,
}  # fmt: skip


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
