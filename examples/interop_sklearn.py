"""MetricEmbedder in scikit-learn: beside NCA, and with a loss searched by a grid.

Nearest-neighbour accuracy behind a StandardScaler, over folds that neither map has seen, as the
features are, behind scikit-learn's NeighborhoodComponentsAnalysis, and behind MetricEmbedder, each
with its defaults. Then GridSearchCV chooses a loss and its temperature.

    python examples/interop_sklearn.py          wine, cancer and digits, three seeds: some minutes
    python examples/interop_sklearn.py --quick  wine alone, two seeds, three folds: some seconds
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coreframe.interop.sklearn import MetricEmbedder

DATA = {"wine": load_wine, "breast cancer": load_breast_cancer, "digits": load_digits}


def embedders(seed: int) -> dict[str, Any]:
    return {
        "features": "passthrough",
        "NCA": NeighborhoodComponentsAnalysis(random_state=seed),
        "MetricEmbedder": MetricEmbedder(random_state=seed),
    }


def compare(name: str, seeds: int, folds: int) -> dict[str, float]:
    """Return the mean accuracy over all folds of all seeds, behind each map."""
    X, y = DATA[name](return_X_y=True)
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
        for title, embedder in embedders(seed).items():
            model = make_pipeline(StandardScaler(), embedder, KNeighborsClassifier())
            found.setdefault(title, []).extend(cross_val_score(model, X, y, cv=cut))
    return {title: float(np.mean(scores)) for title, scores in found.items()}


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
    quick = arguments == ["--quick"]
    print(f"{'accuracy':15}" + "".join(f"{title:>16}" for title in embedders(0)))
    for name in ["wine"] if quick else DATA:
        found = compare(name, seeds=2 if quick else 3, folds=3 if quick else 5)
        print(f"{name:15}" + "".join(f"{x:16.4f}" for x in found.values()), flush=True)
    print("a grid chooses", search())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
