"""Checkpoints in user code: work that survives the end of a lease. See docs/checkpoints.md.

    from cumulus import checkpoint

    state = checkpoint.load_checkpoint() or {"step": 0, "weights": initial()}
    for step in range(state["step"], 10_000):
        train(state)
        if checkpoint.should_checkpoint():
            checkpoint.save_checkpoint(state, step=step)
            checkpoint.exit_if_ending()

Standard library only, Python 3.9 and later. It imports nothing else of cumulus: this folder alone is enough, in a
container or in a zip file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        default,
        exit_if_ending,
        latest,
        load_checkpoint,
        save_checkpoint,
        saving,
        should_checkpoint,
        time_remaining,
        use,
        wait,
    )
    from .checkpointer import EXIT_CODE, Checkpointer, NoPlace
    from .gang_save import Voided
    from .groups import RanksApart
    from .layout import Checkpoint, CheckpointError, Damaged
    from .settings import Settings
    from .states import NoState
    from .writing import UnsafePlace

_MODULES = {
    "api": (
        "default", "exit_if_ending", "latest", "load_checkpoint", "save_checkpoint", "saving", "should_checkpoint",
        "time_remaining", "use", "wait",
    ),
    "checkpointer": ("EXIT_CODE", "Checkpointer", "NoPlace"),
    "gang_save": ("Voided",),
    "groups": ("RanksApart",),
    "layout": ("Checkpoint", "CheckpointError", "Damaged"),
    "settings": ("Settings",),
    "states": ("NoState",),
    "writing": ("UnsafePlace",),
}  # fmt: skip

__all__ = [
    "EXIT_CODE", "Checkpoint", "CheckpointError", "Checkpointer", "Damaged", "NoPlace", "NoState", "RanksApart",
    "Settings", "UnsafePlace", "Voided", "default", "exit_if_ending", "latest", "load_checkpoint", "save_checkpoint",
    "saving", "should_checkpoint", "time_remaining", "use", "wait",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The names above, imported when they are first used: a supervisor that needs the layout alone loads no more."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(f".{module}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
