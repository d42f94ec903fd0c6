"""Which MIG instances an administrator could make for those who wait. Nothing here makes one, or switches MIG mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cumulus.health.finding import Finding
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.quantity import format_bytes, parse_share

if TYPE_CHECKING:
    from cumulus.chronos.local import Mig


def wishes(pending: Sequence[Document]) -> list[tuple[str, int]]:
    """Who waits for so many bytes: partitions that ask for a size. A part of a device means each device's own size, so
    an instance of any size would do."""
    found = []
    for partition in pending:
        share = parse_share(lookup(partition, "spec.memory") or "100%")
        metadata = partition["metadata"]
        if share.size is not None and lookup(partition, "spec.selector.type") in (None, "", "gpu"):
            found.append((f"{metadata.get('namespace')}/{metadata['name']}", share.size))
    return found


def check(pending: Sequence[Document]) -> Iterator[Finding]:
    """What this machine's GPUs in MIG mode could have for the partitions that wait."""
    from cumulus.chronos.local import mig_gpus

    yield from findings(mig_gpus(), wishes(pending))


def findings(gpus: Mapping[str, Mig], waiting: Sequence[tuple[str, int]]) -> Iterator[Finding]:
    """The same of GPUs by their UUIDs, for whoever waits for so many bytes."""
    from cumulus.chronos.local import mig_plan

    if not gpus:
        fix = "an administrator may do it where no job runs: nvidia-smi -i GPU -mig 1 (Cumulus never does)"
        yield Finding("OK", "mig", "no GPU of this machine is in MIG mode", fix)
        return
    plan = mig_plan(gpus, waiting)
    for gpu, mig in gpus.items():
        there = Counter(instance.profile for instance in mig.instances)
        has = ", ".join(f"{count}x {profile}" for profile, count in sorted(there.items())) or "no instance"
        if mig.taken is None:
            fix = "run it as root: where instances are is told to administrators alone"
            yield Finding("WARN", "mig", f"{gpu} has {has}; what else fits is not known", fix)
            continue
        made = [one for one in plan.made if one.gpu == gpu]
        if made:
            more = ", ".join(f"{one.profile.name} for {one.name}" for one in made)
            yield Finding("OK", "mig", f"{gpu} has {has}; it could have {more}", plan.command(gpu))
        else:
            yield Finding("OK", "mig", f"{gpu} has {has}; nobody waits for an instance that fits beside them")
    for wish in plan.unserved:
        size = format_bytes(wish.memory_bytes)
        yield Finding("WARN", "mig", f"{wish.name} waits for {size}, and no instance of that size fits")
