"""scikit-learn, XGBoost and LightGBM."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from tests.checkpoint.adapters.conftest import Leases


def data(rows: int = 300) -> tuple[Any, Any]:
    rng = numpy.random.default_rng(3)
    x = rng.normal(size=(rows, 6))
    return x, (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)


def test_sklearn_partial_fit(leases: Leases) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="NOT TESTED: scikit-learn is not installed")
    from cumulus.checkpoint.adapters.sklearn import partial_fit

    x, y = data()
    batches = [(x[at : at + 10], y[at : at + 10]) for at in range(0, 300, 10)]

    def train() -> Any:
        return partial_fit(linear_model.SGDClassifier(random_state=0), batches, classes=[0, 1]).coef_

    assert numpy.array_equal(leases.whole(train), leases.cut(train, [7, 1, 12]))


def test_sklearn_warm_start(leases: Leases) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble", reason="NOT TESTED: scikit-learn is not installed")
    from cumulus.checkpoint.adapters.sklearn import grow

    x, y = data()

    def train() -> Any:
        forest = ensemble.RandomForestClassifier(warm_start=True, random_state=5)
        return grow(forest, x, y, "n_estimators", to=12, by=2).predict_proba(x)

    assert numpy.array_equal(leases.whole(train), leases.cut(train, [2, 1]))
    with pytest.raises(ValueError, match="needs warm_start=True"):
        grow(ensemble.RandomForestClassifier(), x, y, "n_estimators", to=12, by=2)


def test_xgboost(leases: Leases) -> None:
    xgboost = pytest.importorskip("xgboost", reason="NOT TESTED: XGBoost is not installed")
    from cumulus.checkpoint.adapters.xgboost import train as xgboost_train

    matrix = xgboost.DMatrix(*data())

    def train() -> Any:
        params = {"max_depth": 3, "objective": "binary:logistic", "nthread": 1}
        return xgboost_train(params, matrix, 20).save_raw("json")

    whole = leases.whole(train)
    assert leases.cut(train, [5, 1, 8]) == whole
    assert leases.cut(train, [20]) == whole, "nothing is left to do"


def test_lightgbm(leases: Leases) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="NOT TESTED: LightGBM is not installed")
    from cumulus.checkpoint.adapters.lightgbm import train as lightgbm_train

    x, y = data()

    def train() -> Any:
        params = {"objective": "binary", "verbose": -1, "num_threads": 1, "deterministic": True}
        booster = lightgbm_train(params, lightgbm.Dataset(x, y), 20)
        assert booster.num_trees() == 20
        return booster.predict(x)

    whole = leases.whole(train)
    assert numpy.allclose(leases.cut(train, [5, 1, 8]), whole, rtol=1e-6)
    assert numpy.allclose(leases.cut(train, [20]), whole, rtol=1e-6)
