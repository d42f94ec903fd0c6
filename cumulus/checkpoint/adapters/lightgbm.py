"""LightGBM: `train` as its own, and a callback.

    from cumulus.checkpoint.adapters.lightgbm import train

    booster = train(params, train_set, num_boost_round=1000)

It goes on from the predictions of the trees that there are, so that later trees may differ in their last digits from
those of a training without an end in between.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import lightgbm

from .. import api
from .after_step import after_step

FILE = "model.txt"


class CumulusCheckpoint:
    """A callback that saves the model where a checkpoint is due, after a round."""

    order = 30
    """After those of LightGBM."""

    def __call__(self, env: Any) -> None:
        def write(place: str) -> None:
            env.model.save_model(os.path.join(place, FILE), num_iteration=-1)

        after_step(env.iteration + 1, write)


def newest() -> Any:
    """The newest whole checkpoint's model, which `lightgbm.train(init_model=…)` takes; None where there is none."""
    found = api.latest()
    return None if found is None else lightgbm.Booster(model_file=os.path.join(found.path, FILE))


def train(
    params: dict[str, Any], train_set: Any, num_boost_round: int, *, callbacks: Iterable[Any] = (), **options: Any
) -> Any:
    """`lightgbm.train` up to so many rounds in all, from the newest checkpoint on."""
    model = newest()
    left = num_boost_round - (0 if model is None else model.num_trees() // model.num_model_per_iteration())
    if model is not None and left <= 0:
        return model
    both = [*callbacks, CumulusCheckpoint()]
    return lightgbm.train(params, train_set, left, init_model=model, callbacks=both, **options)
