"""MetricEmbedder in scikit-learn: beside NCA, and with a loss searched by a grid.

Nearest-neighbour accuracy behind a StandardScaler, over folds that neither map has seen, as the
features are, behind scikit-learn's NeighborhoodComponentsAnalysis, and behind MetricEmbedder, each
with its defaults. Then GridSearchCV chooses a loss and its temperature.

    python examples/interop_sklearn.py           wine, cancer and digits, three seeds: some minutes
    python examples/interop_sklearn.py --narrow  the same in two dimensions
    python examples/interop_sklearn.py --others  sets of other shapes, 20 halves each
    python examples/interop_sklearn.py --quick   wine alone, two seeds, three folds: some seconds
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_score,
)
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coreframe.interop.sklearn import MetricEmbedder

Sets = Callable[[int], dict[str, tuple[Any, Any]]]
DATA = {"wine": load_wine, "breast cancer": load_breast_cancer, "digits": load_digits}


def embedders(seed: int, width: int | None = None) -> dict[str, Any]:
    return {
        "features": "passthrough",
        "NCA": NeighborhoodComponentsAnalysis(width, random_state=seed),
        "MetricEmbedder": MetricEmbedder(width, random_state=seed),
    }


def compare(name: str, seeds: int, folds: int, width: int | None = None) -> dict[str, float]:
    """Return the mean accuracy over all folds of all seeds, behind each map."""
    X, y = DATA[name](return_X_y=True)
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
        for title, embedder in embedders(seed, width).items():
            model = make_pipeline(StandardScaler(), embedder, KNeighborsClassifier())
            found.setdefault(title, []).extend(cross_val_score(model, X, y, cv=cut))
    return {title: float(np.mean(scores)) for title, scores in found.items()}


def others(seed: int) -> dict[str, tuple[Any, Any]]:
    """Return sets of other shapes: rows, and their classes."""

    def noisy(X: Any, y: Any, count: int) -> tuple[Any, Any]:
        """Add features that say nothing."""
        more = np.random.default_rng(seed).normal(size=(len(X), count)) * X.std()
        return np.hstack([X, more]), y

    def parts(X: Any, y: Any, count: int) -> tuple[Any, Any]:
        """Make classes of a number, equally large."""
        return X, np.digitize(y, np.quantile(y, np.arange(1, count) / count))

    moons = datasets.make_moons(600, noise=0.2, random_state=seed)
    circles = datasets.make_circles(600, noise=0.1, factor=0.5, random_state=seed)
    curve = datasets.make_s_curve(600, noise=0.1, random_state=seed)
    return {
        "iris": load_iris(return_X_y=True),
        "moons": noisy(*moons, 8),
        "circles": noisy(*circles, 8),
        "s-curve": noisy(*parts(*curve, 4), 6),
        "friedman": parts(*datasets.make_friedman1(600, noise=1.0, random_state=seed), 3),
        "sparse": parts(*datasets.make_sparse_uncorrelated(600, 12, random_state=seed), 3),
        "ten classes": datasets.make_classification(
            800, 30, n_informative=8, n_redundant=6, n_classes=10, n_clusters_per_class=1,
            random_state=seed + 500,
        ),
        "few digits": tuple(x[seed::8] for x in load_digits(return_X_y=True)),
    }  # fmt: skip


def compare_others(seeds: int, sets: Sets = others) -> dict[str, dict[str, Any]]:
    """Return the accuracy on one half, learned on the other, behind each map, for each seed."""
    found: dict[str, dict[str, Any]] = {}
    for seed in range(seeds):
        for name, (X, y) in sets(seed).items():
            half, rest = next(
                StratifiedShuffleSplit(1, test_size=0.5, random_state=seed).split(X, y)
            )
            for title, embedder in embedders(seed).items():
                model = make_pipeline(StandardScaler(), embedder, KNeighborsClassifier())
                score = model.fit(X[half], y[half]).score(X[rest], y[rest])
                found.setdefault(name, {}).setdefault(title, []).append(score)
    return found


def search() -> dict[str, Any]:
    """Return the loss and the temperature that serve wine best, as a grid finds them."""
    X, y = load_wine(return_X_y=True)
    embedder = MetricEmbedder(epochs=10, random_state=0)
    model = make_pipeline(StandardScaler(), embedder, KNeighborsClassifier())
    grid = {
        "metricembedder__loss": ["nca", "sup_con"],
        "metricembedder__loss__temperature": [0.1, 1.0],
    }
    best: dict[str, Any] = GridSearchCV(model, grid, cv=3).fit(X, y).best_params_
    return best


def main(arguments: list[str]) -> int:
    quick, width = arguments == ["--quick"], 2 if arguments == ["--narrow"] else None
    print(f"{'accuracy':15}" + "".join(f"{title:>16}" for title in embedders(0)))
    if arguments == ["--others"]:
        for name, scores in compare_others(20).items():
            print(f"{name:15}" + "".join(f"{np.mean(x):16.4f}" for x in scores.values()), end="")
            gains = np.subtract(scores["MetricEmbedder"], scores["NCA"])
            print(f"   better than NCA {np.sum(gains > 0):2}, worse {np.sum(gains < 0):2}")
        return 0
    for name in ["wine"] if quick else DATA:
        found = compare(name, seeds=2 if quick else 3, folds=3 if quick else 5, width=width)
        print(f"{name:15}" + "".join(f"{x:16.4f}" for x in found.values()), flush=True)
    print("a grid chooses", search())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
