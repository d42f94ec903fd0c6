"""What all partitions that have not ended ask for or hold: each version of one is decoded once."""

from __future__ import annotations

from collections.abc import Iterable

from cumulus.controllers.partition_watches import LIVE
from cumulus.machinery.cache import Reader, readable
from cumulus.resources.key import Key
from cumulus.resources.partition import GPUPartition
from cumulus.scheduling.claim import Claim, claim_of


class LiveClaims:
    """Of one controller: one thread at a time."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[Key, tuple[int, Claim]] = {}

    def refreshed(self) -> Iterable[Claim]:
        """As the reader has them now. Damaged ones are left out: their node's ledger still knows what they hold."""
        known, live = self._known, self._reader.indexed(LIVE, "")
        for key in [key for key in known if key not in live]:
            del known[key]
        for key, entry in live.items():
            before = known.get(key)
            if before is not None and before[0] == entry.revision:
                continue
            partition = readable(self._reader, GPUPartition, key.namespace, key.name)
            if partition is not None:
                known[key] = (entry.revision, claim_of(partition))
            else:
                known.pop(key, None)
        return (claim for _, claim in known.values())
