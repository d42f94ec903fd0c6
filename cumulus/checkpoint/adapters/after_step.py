"""What every callback does after a step."""

from __future__ import annotations

from typing import Callable

from .. import api


def after_step(step: int, write: Callable[[str], None], *, shared: bool = False) -> None:
    """Save where a checkpoint is due, by `write` into a directory; then exit where the run has to end."""
    if not api.should_checkpoint():
        return
    with api.saving(step, shared=shared) as directory:
        write(directory)
    api.exit_if_ending()
