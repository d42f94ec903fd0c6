"""What a state directory alone allows, while no daemon serves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus import stores
from cumulus.answers.secrets import SecretMove
from cumulus.service import secret_migration
from cumulus.service.backups import restore

__all__ = ["migrate_secrets", "restore"]


def migrate_secrets(home: Path, unused: str, *, dry_run: bool) -> Sequence[SecretMove]:
    """Move secrets from before they had namespaces to where they are used, those that nobody names to the namespace
    `unused`: what went, or with `dry_run` would go, where. Raises SecretUnavailable, StoreUnavailable, StoreInUse."""
    store = stores.of_home(home)
    try:
        moves = secret_migration.planned(store, home, unused)
    finally:
        store.close()
    if not dry_run:
        secret_migration.move(home, moves)
    return moves
