"""A sweep over hyperparameters with XGBoost, as results come: python examples/sweep_xgboost.py"""

from cumulus.sdk import CumulusClient


def error(parameters: dict[str, float]) -> tuple[dict[str, float], float]:
    """The mean absolute error of boosted trees on data that they have not seen."""
    import numpy as np
    import xgboost
    from sklearn.datasets import load_diabetes

    features, target = load_diabetes(return_X_y=True)
    train, test = slice(0, 350), slice(350, None)
    model = xgboost.XGBRegressor(n_estimators=50, nthread=1, **parameters)
    model.fit(features[train], target[train])
    return parameters, float(np.abs(model.predict(features[test]) - target[test]).mean())


if __name__ == "__main__":
    grid = [{"max_depth": depth, "learning_rate": rate} for depth in (2, 4, 6) for rate in (0.03, 0.1, 0.3)]
    best: tuple[dict[str, float], float] = ({}, float("inf"))
    with (
        CumulusClient() as client,
        client.map(error, grid, workers=2, ordered=False, gpu_memory=0.1, duration="10m") as found,
    ):
        for parameters, mean in found:
            if mean < best[1]:
                best = parameters, mean
                print(f"{mean:.1f} with {parameters}")
    print(f"best of {len(grid)}: {best[1]:.1f}")
