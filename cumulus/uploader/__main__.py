"""The uploader as a program; it reads its `Config` as one line from standard input.

    run PATH            copy what is saved in PATH until standard input ends, and what is left then
    restore PATH        put the newest checkpoint that is whole into PATH, unless PATH has one that is as new
    list PATH           the committed checkpoints
    verify PATH STEP    read every byte of one

The answer of the last three is one line of JSON. Exit codes: 0; 1: an error, as `{"error": …, "hint": …}`; 2: usage.
Run by path or by `-m`, with `-I`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":
    # Also where Cumulus is not installed: run by path.
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import CheckpointError, Manifest
from cumulus.errors import BlobError, CumulusError, UsageError
from cumulus.lib import cgroup
from cumulus.lib.unix_user import become
from cumulus.uploader import catalog
from cumulus.uploader.config import Config
from cumulus.uploader.directory_place import DirectoryPlace
from cumulus.uploader.following import Follower
from cumulus.uploader.place import Name, Place, parse
from cumulus.uploader.restore import restore, verify

_PR_SET_DUMPABLE = 4
_MOST_CONFIG = 2**20


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say."""
    if len(arguments) < 2 or arguments[0] not in ("run", "restore", "list", "verify"):
        sys.stderr.write((__doc__ or "") + "\n")
        return 2
    os.umask(0o077)
    try:
        config = Config.decode(sys.stdin.buffer.readline(_MOST_CONFIG))
        stop = threading.Event()
        told: list[Callable[[BlobError], None]] = []
        place = _place(config, stop, told)
        _settle(config)
        return _VERBS[arguments[0]](config, place, arguments[1:], stop, told)
    except (CumulusError, CheckpointError) as error:
        _say({"error": str(error), "hint": getattr(error, "hint", None) or ""})
    except OSError as error:
        _say({"error": f"{error.strerror}: {error.filename}", "hint": ""})
    return 1


def _place(config: Config, stop: threading.Event, told: list[Callable[[BlobError], None]]) -> Place:
    scheme, host, path = parse(config.uri)
    if scheme == "file":
        return DirectoryPlace(path)
    if config.within and not f"{host}/{path}/".startswith(f"{config.within.strip('/')}/"):
        raise UsageError(
            f"the daemon's keys are for s3://{config.within} alone, not for {config.uri}",
            hint="name a secret with keys of your own in checkpoint.credentials",
        )
    try:
        # Before this becomes the job's user, and not from a directory of theirs.
        import boto3  # noqa: F401
    except ImportError:
        raise UsageError(
            f"this node can't reach {config.uri}: it has no boto3",
            hint="set the node up anew: cumulus node setup, or pip install 'cumulus-chronos[s3]' there",
        ) from None
    from cumulus.blob.s3.client import S3Client
    from cumulus.uploader.s3_place import S3Place

    def waiting(problem: BlobError) -> None:
        for each in told:
            each(problem)

    client = S3Client(config.bucket(host), waiting=waiting, stop=stop)
    client.prepare()
    return S3Place(client, path)


def _settle(config: Config) -> None:
    """Out of the lease's cgroup, and the job's user from here on. No process of that user may read the memory of this
    one: it may hold keys that are not theirs."""
    cgroup.leave()
    if config.user is not None:
        become(config.user)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _run(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    over = threading.Event()
    follower = Follower(place, arguments[0], config.keep, over=over, stop=stop, linger=config.linger)
    told.append(follower.waiting)

    def end(number: int, frame: object) -> None:
        stop.set()
        over.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    # A thread of its own: the program's end is noticed while a file is sent.
    threading.Thread(target=_wait_for_end, args=(over,), name="stdin", daemon=True).start()
    return 0 if follower.run() else 1


def _wait_for_end(over: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            continue
    over.set()


def _restore(config: Config, place: Place, arguments: Sequence[str], stop: threading.Event, told: list[Any]) -> int:
    refused: list[str] = []
    path = arguments[0]
    here = layout.newest(path, refused=lambda damaged: refused.append(str(damaged)))
    known = None if here is None else Name(here.manifest.token, here.step)

    def needed(manifest: Manifest) -> bool:
        return known is None or Name(manifest.token, manifest.step) > known

    found = restore(place, path, refused=lambda damaged: refused.append(f"{place.uri}: {damaged}"), needed=needed)
    if found is not None:
        _say({"step": found.step, "token": found.token, "size": found.size, "restored": True, "refused": refused})
    else:
        step = None if here is None else here.step
        _say({"step": step, "token": known.token if known else 0, "restored": False, "refused": refused})
    return 0


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


_VERBS = {"run": _run, "restore": _restore, "list": _list, "verify": _verify}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
