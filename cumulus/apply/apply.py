"""Applies manifests to a store: all in one transaction, or none. `cumulus apply` and GitOps come in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from cumulus.admission.problems import Rejected
from cumulus.apply import ownership
from cumulus.apply.ownership import FieldOwner
from cumulus.apply.plan import ApplyResult, plan
from cumulus.apply.server_side import Applier
from cumulus.clock import Clock, SystemClock, short_timestamp
from cumulus.errors import AlreadyExists, Conflict, CumulusError, NotFound, UsageError
from cumulus.manifest import DEFAULT_NAMESPACE, InvalidManifest, Manifest, Problem, placed
from cumulus.resources import registry
from cumulus.resources.field_managers import CUMULUS
from cumulus.resources.key import Document, Key, key_of
from cumulus.store.base import Fence, Query, Store, Write

ATTEMPTS = 10
"""How often a plan is made anew when objects changed between reading and writing."""
FREE_PRUNES = 10
"""As many objects may always be pruned at once."""


class PruneRefused(CumulusError):
    """More objects would be pruned than is likely meant."""


@dataclass(frozen=True, slots=True)
class PruneScope:
    """Delete what was applied before and is in the manifests no more.

    Of every namespaced kind that people make, in the manifests' namespaces: objects that match `selector` (label
    selector text), were made or changed by `apply` as the same field manager, belong to no other object, and are not
    among the manifests.
    `limit`: how many at most; by default 10, or half of the matching ones if that is more.
    """

    selector: str
    limit: int | None = None


def apply(
    store: Store,
    manifests: Sequence[Manifest],
    *,
    dry_run: bool = False,
    prune: PruneScope | None = None,
    fence: Fence | None = None,
    admit: Callable[[Sequence[Write]], Sequence[Write]] = lambda writes: writes,
    field_manager: str = CUMULUS,
    force_conflicts: bool = False,
    recreate: Callable[[Document, Document], Sequence[Write]] | None = None,
    clock: Clock | None = None,
) -> list[ApplyResult]:
    """Make it so, and tell what happened to each object, in the manifests' order, pruned ones last.

    One transaction; with `dry_run` nothing is written. `admit` gives the writes as they are to be. `field_manager`
    owns what is applied; with `force_conflicts` also what other managers own and has another value. `recreate`: objects
    whose immutable fields change are made anew, by the writes that it gives for the old and the new one, of which the
    third creates; without it such a change is refused. Raises
    InvalidManifest with everything that forbids it, conflicts included, PruneRefused, Conflict if the objects keep
    changing, and what `admit` and the store raise.
    """
    now = short_timestamp((clock or SystemClock()).now())
    by = Applier(ownership.check_manager(field_manager), now, force_conflicts, recreate is not None)
    for _ in range(ATTEMPTS):
        results = _planned(store, manifests, prune, by)
        writes = _admitted(manifests, [w for result in results if (w := result.write()) is not None], admit)
        anew = [recreate(r.before or {}, r.after or {}) for r in results if recreate and r.action == "recreated"]
        if dry_run or not (writes or anew):
            return results
        try:
            answers = store.transact([*writes, *chain.from_iterable(anew)], fence=fence)
        except (AlreadyExists, Conflict, NotFound):
            continue
        written, made = iter(answers), iter(_made(answers[len(writes) :], anew))
        return [
            replace(result, after=next(made)) if result.action == "recreated"
            else _written(result, next(written)) if result.write() is not None else result
            for result in results
        ]  # fmt: skip
    raise Conflict(
        f"the objects kept changing while they were applied ({ATTEMPTS} attempts); nothing was applied",
        hint="apply again",
    )


def _admitted(
    manifests: Sequence[Manifest], writes: Sequence[Write], admit: Callable[[Sequence[Write]], Sequence[Write]]
) -> list[Write]:
    """Raises InvalidManifest with the places in the manifest of what is refused, and what else `admit` raises."""
    try:
        return list(admit(writes))
    except Rejected as rejected:
        if problems := placed(rejected, manifests):
            raise InvalidManifest(problems) from None
        raise


def _made(answers: Sequence[Document], anew: Sequence[Sequence[Write]]) -> Iterator[Document]:
    """Each object that was made anew."""
    start = 0
    for writes in anew:
        yield answers[start + 2]
        start += len(writes)


def _written(result: ApplyResult, document: Document) -> ApplyResult:
    return result if result.action == "pruned" else replace(result, after=document)


def _planned(store: Store, manifests: Sequence[Manifest], prune: PruneScope | None, by: Applier) -> list[ApplyResult]:
    results: list[ApplyResult] = []
    problems: list[Problem] = []
    for manifest in manifests:
        planned = plan(manifest, _read(store, manifest.key), by)
        if isinstance(planned, ApplyResult):
            results.append(planned)
        else:
            problems += planned
    if problems:
        raise InvalidManifest(problems)
    if prune is not None:
        results += _pruned(store, {manifest.key for manifest in manifests}, prune, by.manager)
    return results


def _pruned(store: Store, kept: set[Key], prune: PruneScope, manager: str) -> list[ApplyResult]:
    if not prune.selector.strip():
        raise UsageError("pruning needs a label selector", hint="say which objects are yours: --prune -l app=NAME")
    namespaces = sorted({key.namespace for key in kept if key.namespace}) or [DEFAULT_NAMESPACE]
    matching = list(_applied_before(store, prune.selector, namespaces, manager))
    pruned = [result for result in matching if result.key not in kept]
    limit = max(FREE_PRUNES, len(matching) // 2) if prune.limit is None else prune.limit
    if len(pruned) > limit:
        raise PruneRefused(
            f"{len(pruned)} of the {len(matching)} applied objects that match {prune.selector} would be pruned, "
            f"more than {limit}; nothing was applied",
            hint=f"if that is meant, allow it with --prune-limit={len(pruned)}",
        )
    return pruned


def _applied_before(store: Store, selector: str, namespaces: Sequence[str], manager: str) -> Iterator[ApplyResult]:
    for kind in registry.KINDS:
        if not (kind.user_made and kind.namespaced):
            continue
        for namespace in namespaces:
            for document in store.list(Query(kind.name, namespace=namespace, labels=selector)).items:
                if _is_ours(document, manager):
                    yield ApplyResult("pruned", kind, key_of(document), document, None)


def _is_ours(document: Document, manager: str) -> bool:
    metadata = document["metadata"]
    in_the_way = metadata.get("ownerReferences") or metadata.get("deletionTimestamp")
    return FieldOwner(manager, "Apply") in ownership.of(document) and not in_the_way


def _read(store: Store, key: Key) -> Document | None:
    try:
        return store.get(key)
    except NotFound:
        return None
