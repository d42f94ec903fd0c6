"""Submits jobs once each, however often a client that got no answer asks again.

A client makes a key for each job that it wants. What came of a key is kept in the state directory, as a small file for
each: CUMULUS_HOME/api/submissions/USER/KEY.json, both hashed. The file is written before the job is made, and again
with the job's uid. The job carries the key's hash as an annotation, so that one that was made just before a crash is
found; a name that the server chooses follows from the key. So a repeated call finds the job in each case, also one that
was deleted meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import NamedTuple

import orjson

from cumulus import paths
from cumulus.clock import Clock
from cumulus.errors import AlreadyExists, CumulusError, InvalidObject, NotFound, StoreUnavailable, UsageError
from cumulus.lib.files import replacing
from cumulus.resources.annotations import SUBMISSION
from cumulus.resources.key import API_VERSION, DEFAULT_NAMESPACE, NAME_LETTERS, Document, Key
from cumulus.resources.kinds import gpujob
from cumulus.resources.registry import BY_NAME
from cumulus.resources.submitter import Submitter
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects

KEPT_SECONDS = 2 * 86400.0
"""How long a key is remembered after its call."""
LONGEST_KEY = 128
_NAME_LENGTH = 12
_LOCKS = 64


class Submitted(NamedTuple):
    """The job; `deleted`: it is gone, and `document` says which it was."""

    document: Document
    deleted: bool = False


class _Record(NamedTuple):
    """`body`: the hash of what was asked for. `uid`: of the job, "" before it was made."""

    body: str
    namespace: str
    name: str
    uid: str = ""


class Submissions:
    """Those of a state directory."""

    def __init__(self, home: Path, objects: Objects, clock: Clock) -> None:
        self._directory = paths.api_dir(home) / "submissions"
        self._objects = objects
        self._clock = clock
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def submit(self, identity: Identity, document: Document, key: str) -> Submitted:
        """Make the GPUJob, or find what an earlier call with that key made.

        Raises UsageError for a key that was used for another job, AlreadyExists, InvalidObject, Forbidden."""
        if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
            raise UsageError(f"an idempotency key is text of 1 to {LONGEST_KEY} printable ASCII characters")
        user = _hash(identity.name, identity.uid)
        mark = _hash(identity.name, identity.uid, key)
        wanted = _checked(document, mark)
        # The same call may come again while it is being answered.
        with self._locks[int(mark[:8], 16) % _LOCKS]:
            return self._submitted(
                identity, wanted, _hash(document), mark, self._directory / user[:32] / f"{mark}.json"
            )

    def sweep(self) -> None:
        """Forget the keys that are old. To be called every hour or so."""
        before = self._clock.now().timestamp() - KEPT_SECONDS
        for directory in _entries(self._directory):
            for file in _entries(directory):
                try:
                    if file.stat().st_mtime < before:
                        file.unlink(missing_ok=True)
                except OSError:
                    continue
            try:
                directory.rmdir()
            except OSError:
                continue  # Some are kept.

    def _submitted(self, identity: Identity, wanted: Document, body: str, mark: str, file: Path) -> Submitted:
        record = _read(file)
        if record is not None and record.body != body:
            raise UsageError(
                "the idempotency key was used for another job", hint="make a new key for each job that you submit"
            )
        if record is not None and record.uid:
            return self._known(identity, record)
        metadata = wanted["metadata"]
        record = _Record(body, metadata["namespace"], metadata["name"])
        _write(file, record)
        try:
            made = self._objects.create(identity, wanted)
        except AlreadyExists:
            found = self._made_before(identity, record, mark)
            if found is None:
                file.unlink(missing_ok=True)
                raise
            made = found
        except StoreUnavailable:
            # It may have been made.
            raise
        except CumulusError:
            file.unlink(missing_ok=True)
            raise
        _write(file, record._replace(uid=made["metadata"]["uid"]))
        return Submitted(made)

    def _known(self, identity: Identity, record: _Record) -> Submitted:
        key = Key(gpujob.KIND.name, record.namespace, record.name)
        try:
            found = self._objects.get(identity, key)
            if found["metadata"]["uid"] == record.uid:
                return Submitted(found)
        except NotFound:
            pass
        metadata = {"namespace": record.namespace, "name": record.name, "uid": record.uid}
        return Submitted({"apiVersion": API_VERSION, "kind": gpujob.KIND.name, "metadata": metadata}, deleted=True)

    def _made_before(self, identity: Identity, record: _Record, mark: str) -> Document | None:
        """The job of that name, where an earlier call with the same key made it."""
        try:
            found = self._objects.get(identity, Key(gpujob.KIND.name, record.namespace, record.name))
        except CumulusError:
            return None
        annotations = found["metadata"].get("annotations") or {}
        submitter = Submitter.of(annotations)
        mine = (submitter.name, submitter.uid) == identity[:2]
        return found if mine and annotations.get(SUBMISSION) == mark else None


def _checked(document: Document, mark: str) -> Document:
    """The job to make, with a name and the annotation. What else is wrong with it admission tells."""
    kind = BY_NAME.get(str(document.get("kind")))
    if kind is None or not kind.runs:
        raise InvalidObject("only a GPUJob can be submitted", field="kind")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise InvalidObject("metadata: must be an object with a name or a generateName", field="metadata")
    prefix, annotations = metadata.get("generateName"), metadata.get("annotations") or {}
    if prefix and not isinstance(prefix, str):
        raise InvalidObject("metadata.generateName: must be text", field="metadata.generateName")
    if not isinstance(annotations, dict):
        raise InvalidObject("metadata.annotations: must be an object", field="metadata.annotations")
    made = {name: value for name, value in metadata.items() if name != "generateName"}
    if prefix and not made.get("name"):
        made["name"] = f"{prefix[:240]}{_letters(mark)}"
    if not isinstance(made.get("name"), str):
        raise InvalidObject("metadata.name: give a name or a generateName, as text", field="metadata.name")
    made["namespace"] = made.get("namespace") or DEFAULT_NAMESPACE
    if not isinstance(made["namespace"], str):
        raise InvalidObject("metadata.namespace: must be text", field="metadata.namespace")
    made["annotations"] = {**annotations, SUBMISSION: mark}
    return {**document, "metadata": made}


def _letters(mark: str) -> str:
    number, found = int(mark, 16), ""
    for _ in range(_NAME_LENGTH):
        number, digit = divmod(number, len(NAME_LETTERS))
        found += NAME_LETTERS[digit]
    return found


def _hash(*parts: object) -> str:
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _entries(directory: Path) -> list[Path]:
    try:
        return [directory / name for name in os.listdir(directory)]
    except OSError:
        return []


def _read(file: Path) -> _Record | None:
    try:
        found = json.loads(file.read_bytes())
        return _Record(str(found["body"]), str(found["namespace"]), str(found["name"]), str(found["uid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, record: _Record) -> None:
    """It survives the end of this process. What a power cut loses the job's annotation tells."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(str(file), durable=False) as opened:
            opened.write(json.dumps(record._asdict()).encode())
    except OSError as error:
        raise StoreUnavailable(f"{file.parent} cannot be written: {error.strerror}") from None
