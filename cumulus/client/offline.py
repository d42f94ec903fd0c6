"""What a state directory alone allows, while no daemon serves it."""

from __future__ import annotations

from cumulus.service.backups import restore

__all__ = ["restore"]
