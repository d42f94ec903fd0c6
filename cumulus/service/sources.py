"""What people ask of Sources beyond their objects, and what a forge that calls may do."""

from __future__ import annotations

import hashlib
import hmac
import secrets as random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus import paths
from cumulus.answers.objects import Applied
from cumulus.answers.sources import SourceDiff
from cumulus.clock import Clock, timestamp
from cumulus.errors import Conflict, CumulusError, NotFound
from cumulus.manifest import InvalidManifest
from cumulus.resources.annotations import SYNC_REQUESTED
from cumulus.resources.key import Document, Key
from cumulus.resources.source import Source
from cumulus.resources.submitter import submitter_annotations
from cumulus.secrets import JobSecrets
from cumulus.service.objects import Objects
from cumulus.store.base import Store
from cumulus.store.client import decode

if TYPE_CHECKING:
    from cumulus.gitops.sync import SyncStep
    from cumulus.manifest import Manifest
    from cumulus.service.identity import Identity

_ATTEMPTS = 5
WEBHOOK_KEY = "token"
"""The key of spec.webhook's secret."""


class Sources:
    def __init__(self, store: Store, objects: Objects, home: Path, clock: Clock) -> None:
        self._store = store
        self._objects = objects
        self._secrets = JobSecrets(paths.job_secrets_dir(home))
        self._clock = clock

    def diff(self, identity: Identity, key: Key, manifests: Sequence[Manifest]) -> SourceDiff:
        """What the Source would do if these were all of its manifests. Nothing is written. Raises NotFound, Forbidden,
        InvalidManifest with all that forbids it."""
        # Loaded where it is asked for: commands start without it.
        from cumulus.gitops.desired import Desired, digest
        from cumulus.gitops.sync import RevisionFacts, make_plan, wants

        source = decode(Source, self._objects.get(identity, key))

        @cache
        def stored(key: Key) -> Document | None:
            try:
                return self._objects.get(identity, key)
            except NotFound:
                return None

        wanted = Desired({m.key: m for m in manifests}, {m.key: digest(m) for m in manifests})
        plan = make_plan(
            source, wanted, RevisionFacts("diff"), stored, now=self._clock.now(),
            claimed=lambda namespace, name, key: wants(self._store, namespace, name, key),
        )  # fmt: skip
        if plan.problems:
            raise InvalidManifest(plan.problems)
        steps = plan.steps or plan.held
        after = {m.key: m for m in manifests}
        return SourceDiff(
            tuple(_applied(step, stored(step.key), after) for step in steps),
            plan.pending.reasons if plan.pending is not None else (),
        )

    def called(self, namespace: str, name: str, headers: Mapping[str, str], body: bytes) -> bool:
        """A forge says that something was pushed: whether it may say so. Then the Source's server is asked at once.

        The body is signed with the secret (GitHub, Gitea), or the secret is in a header (GitLab); that is all that
        counts. Who may not learns nothing, not even whether there is such a Source."""
        token, found = self._token(namespace, name)
        if not _is_signed(token or random.token_bytes(32), headers, body) or found is None:
            return False
        self.request(found)
        return True

    def request(self, source: Source) -> None:
        """Have the Source's server asked at once. One request that was not taken yet is enough for many."""
        for _ in range(_ATTEMPTS):
            asked = source.metadata.annotations.get(SYNC_REQUESTED, "")[:64]
            if asked and asked != source.status.sync_request:
                return
            document = source.to_json()
            mark = f"{timestamp(self._clock.now())}-{random.token_hex(4)}"
            annotations = {**source.metadata.annotations, SYNC_REQUESTED: mark}
            document["metadata"] = {**document["metadata"], "annotations": annotations}
            try:
                self._store.update(document)
                return
            except Conflict:
                source = decode(Source, self._store.get(source.key))

    def _token(self, namespace: str, name: str) -> tuple[bytes, Source | None]:
        """The secret that a forge shares with the Source; empty where there is none."""
        try:
            source = decode(Source, self._store.get(Key(Source.KIND, namespace, name)))
            if source.spec.webhook is None or source.deleting:
                return b"", None
            return self._secrets.of(namespace).read(source.spec.webhook, WEBHOOK_KEY).strip(), source
        except CumulusError:
            return b"", None


def _is_signed(token: bytes, headers: Mapping[str, str], body: bytes) -> bool:
    """Compares each of them, so that time tells nothing."""
    expected = hmac.new(token, body, hashlib.sha256).hexdigest().encode()
    answers = [hmac.compare_digest(given, wanted) for given, wanted in _shown(headers, token, expected)]
    return any(answers)


def _shown(headers: Mapping[str, str], token: bytes, expected: bytes) -> Iterator[tuple[bytes, bytes]]:
    yield _bytes(headers.get("x-hub-signature-256", "")).removeprefix(b"sha256="), expected
    yield _bytes(headers.get("x-gitea-signature", "")), expected
    yield _bytes(headers.get("x-gitlab-token", "")), token


def _bytes(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def _applied(step: SyncStep, before: Document | None, after: Mapping[Key, Manifest]) -> Applied:
    if step.action == "delete":
        return Applied("pruned", step.key, before, None)
    if step.action == "recreate":
        return Applied("recreated", step.key, before, _made_anew(before or {}, after[step.key]))
    made = step.write.document
    return Applied("created" if step.action == "create" else "configured", step.key, before, made)


def _made_anew(before: Document, manifest: Manifest) -> Document:
    """What takes the place of an object, with every default, so that it differs from it in what changed alone."""
    document = manifest.resource.to_json()
    metadata, known = document["metadata"], (before.get("metadata") or {}).get("annotations")
    annotations = {**(metadata.get("annotations") or {}), **submitter_annotations(known)}
    return {**document, "metadata": {**metadata, "annotations": annotations}}
