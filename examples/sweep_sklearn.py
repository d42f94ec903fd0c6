"""A sweep over hyperparameters with scikit-learn: python examples/sweep_sklearn.py"""

from cumulus.sdk import CumulusClient


def score(c: float, gamma: float) -> float:
    """Mean accuracy of a support vector machine over three folds."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    return float(cross_val_score(SVC(C=c, gamma=gamma), images[:600], digits[:600], cv=3).mean())


if __name__ == "__main__":
    grid = [(c, gamma) for c in (0.1, 1.0, 10.0) for gamma in (0.0001, 0.001, 0.01)]
    with CumulusClient() as client:
        scores = list(client.starmap(score, grid, workers=2, gpu_memory=0.1, duration="10m"))
    best, (c, gamma) = max(zip(scores, grid, strict=True))
    print(f"best of {len(grid)}: {best:.3f} with C={c} and gamma={gamma}")
