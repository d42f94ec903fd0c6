"""What a Source would do."""

from __future__ import annotations

from dataclasses import dataclass

from cumulus.answers.objects import Applied


@dataclass(frozen=True, slots=True)
class SourceDiff:
    """What a Source would do with manifests: to each object, and why it would ask first ("" for nothing)."""

    changes: tuple[Applied, ...]
    asks: tuple[str, ...] = ()
