"""scikit-learn: estimators that learn in parts.

from cumulus.checkpoint.adapters.sklearn import grow, partial_fit

model = partial_fit(SGDClassifier(random_state=0), batches, classes=[0, 1])
model = grow(RandomForestClassifier(warm_start=True, random_state=0), X, y, "n_estimators", to=500, by=10)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import api


def partial_fit(estimator: Any, batches: Sequence[tuple[Any, Any]], **options: Any) -> Any:
    """Let the estimator learn each batch (X, y) once, go on after the last batch of the newest checkpoint, and return
    it. `batches` has a length and is indexed; `options` are those of its `partial_fit`."""
    estimator, done = _restored(estimator)
    for number in range(done, len(batches)):
        data, target = batches[number]
        estimator.partial_fit(data, target, **options)
        _after_step(estimator, number + 1)
    return estimator


def grow(estimator: Any, data: Any, target: Any, parameter: str, *, to: int, by: int) -> Any:
    """Fit an estimator with `warm_start=True` in parts, in which `parameter` (n_estimators, max_iter) grows `by` so
    many `to` its end; go on after the newest checkpoint, and return it. Raises ValueError without a warm start."""
    if not getattr(estimator, "warm_start", False) or by < 1:
        raise ValueError(f"{type(estimator).__name__} needs warm_start=True to be fitted in parts of at least 1")
    estimator, size = _restored(estimator)
    while size < to:
        size = min(to, size + by)
        estimator.set_params(**{parameter: size}).fit(data, target)
        _after_step(estimator, size)
    return estimator


def _restored(estimator: Any) -> tuple[Any, int]:
    state = api.load_checkpoint()
    return (estimator, 0) if state is None else (state["estimator"], state["step"])


def _after_step(estimator: Any, step: int) -> None:
    if api.should_checkpoint():
        api.save_checkpoint({"step": step, "estimator": estimator}, step=step)
        api.exit_if_ending()
