"""What can be done with a state directory alone, while nobody serves it."""

from __future__ import annotations

from cumulus.service.backups import restore

__all__ = ["restore"]
