"""XGBoost: `train` as its own, and a callback.

    from cumulus.checkpoint.adapters.xgboost import train

    booster = train(params, dtrain, num_boost_round=1000)

The trees are those of a training without an end in between, where nothing is random; with `subsample` and the like set
`seed_per_iteration` too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import xgboost

from .. import api
from .after_step import after_step

FILE = "model.ubj"


class CumulusCheckpoint(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Saves the model where a checkpoint is due, after a round."""

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        after_step(model.num_boosted_rounds(), lambda place: model.save_model(os.path.join(place, FILE)))
        return False


def newest() -> Any:
    """The model of the newest whole checkpoint, which `xgboost.train(xgb_model=…)` takes; None where there is none."""
    found = api.latest()
    return None if found is None else xgboost.Booster(model_file=os.path.join(found.path, FILE))


def train(
    params: dict[str, Any], dtrain: Any, num_boost_round: int, *, callbacks: Iterable[Any] = (), **options: Any
) -> Any:
    """`xgboost.train` up to so many rounds in all, from the newest checkpoint on."""
    model = newest()
    left = num_boost_round - (0 if model is None else model.num_boosted_rounds())
    if model is not None and left <= 0:
        return model
    both = [*callbacks, CumulusCheckpoint()]
    return xgboost.train(params, dtrain, left, xgb_model=model, callbacks=both, **options)
