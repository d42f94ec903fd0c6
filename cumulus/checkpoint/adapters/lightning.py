"""Lightning: a callback.

from cumulus.checkpoint.adapters.lightning import CumulusCheckpoint

trainer = Trainer(callbacks=[CumulusCheckpoint()])
trainer.fit(model, ckpt_path=CumulusCheckpoint.newest())
"""

from __future__ import annotations

import os
from typing import Any

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback

from .. import api
from .after_step import after_step

FILE = "lightning.ckpt"


class CumulusCheckpoint(Callback):  # type: ignore[misc]
    """Saves the Trainer's checkpoint where one is due, after a training step."""

    @staticmethod
    def newest() -> str | None:
        """What `Trainer.fit(ckpt_path=…)` takes: the newest whole checkpoint; None where there is none."""
        found = api.latest()
        return None if found is None else os.path.join(found.path, FILE)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        # After the last batch the epoch has to end first: a checkpoint from before that would repeat it.
        if not trainer.is_last_batch:
            self._after_step(trainer)

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self._after_step(trainer)

    def _after_step(self, trainer: Any) -> None:
        # Lightning has a handler for the stop signal of its own, and ends without a save.
        if trainer.received_sigterm:
            api.default().stop()
        # The Trainer decides which ranks write what.
        after_step(trainer.global_step, lambda place: trainer.save_checkpoint(os.path.join(place, FILE)), shared=True)
