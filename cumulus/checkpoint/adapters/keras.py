"""Keras and TensorFlow: a callback.

    from cumulus.checkpoint.adapters.keras import CumulusCheckpoint

    backup = CumulusCheckpoint()
    model.fit(x, y, epochs=10, initial_epoch=backup.restore(model), callbacks=[backup])

Keras has no position within an epoch: one that was saved in its middle begins again with the weights that it had.
"""

from __future__ import annotations

from typing import Any

import keras

from .. import api


class CumulusCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the weights, the optimizer, the random seeds and the epoch where a checkpoint is due, after a batch."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0
        self._step = 0

    def restore(self, model: Any) -> int:
        """Load the newest checkpoint into a compiled model, and return what `fit(initial_epoch=…)` takes; 0 where there
        is none. Raises ValueError where the model is another one."""
        state = api.load_checkpoint()
        if state is None:
            return 0
        if model.optimizer is not None:
            model.optimizer.build(model.trainable_variables)
        variables = _variables(model)
        if variables.keys() != state["variables"].keys():
            other = sorted(variables.keys() ^ state["variables"].keys())[0]
            raise ValueError(f"the checkpoint is of another model: {other!r} is in one of them alone")
        for name, value in state["variables"].items():
            variables[name].assign(value)
        self._step = state["step"]
        return int(state["epoch"])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1
        self._after_step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        self._after_step()

    def _after_step(self) -> None:
        if not api.should_checkpoint():
            return
        values = {
            name: keras.ops.convert_to_numpy(variable).copy() for name, variable in _variables(self.model).items()
        }
        api.save_checkpoint({"step": self._step, "epoch": self._epoch, "variables": values}, step=self._step)
        api.exit_if_ending()


def _variables(model: Any) -> dict[str, Any]:
    """By names that are the same in the next process: those of Keras count up with each model that is made."""
    optimizer = [] if model.optimizer is None else model.optimizer.variables
    parts = {"model": model.variables, "optimizer": optimizer}
    return {f"{part}/{number}": variable for part, found in parts.items() for number, variable in enumerate(found)}
