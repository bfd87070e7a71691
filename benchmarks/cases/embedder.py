"""A metric for nearest-neighbour classification, learned from class labels: a whole fit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.case import PLAIN, US, Call, Case, Compare, Inputs, Side

NCA = "scikit-learn's NCA"


def _classes(n: int, d: int) -> Callable[[], Inputs]:
    """Return rows of ten classes, each in two places, of which a third of the features speak."""

    @functools.cache
    def make() -> Inputs:
        from sklearn.datasets import make_classification
        from sklearn.preprocessing import StandardScaler

        x, y = make_classification(
            n, d, n_informative=d // 3, n_redundant=0, n_classes=10, n_clusters_per_class=2,
            random_state=0,
        )  # fmt: skip
        return {"x": StandardScaler().fit_transform(x), "y": y}

    return make


def _ours(inputs: Inputs) -> Call:
    from coreframe.interop.sklearn import MetricEmbedder

    return _fit(MetricEmbedder(random_state=0), inputs)


def _theirs(inputs: Inputs) -> Call:
    from sklearn.neighbors import NeighborhoodComponentsAnalysis

    return _fit(NeighborhoodComponentsAnalysis(random_state=0), inputs)


def _fit(embedder: Any, inputs: Inputs) -> Call:
    return lambda: embedder.fit(inputs["x"], inputs["y"])


def metric_embedder(
    quick: bool, n: int = 4_000, d: int = 64, name: str = "metric_embedder"
) -> Case:
    n, d = (400, 16) if quick else (n, d)
    return Case(
        name,
        f"MetricEmbedder.fit with its defaults, {n:,} rows of 10 classes, d = {d}",
        _classes(n, d),
        _classes(100, d),
        (
            Side(US, _ours, needs=("sklearn",), environment=PLAIN),
            Side(NCA, _theirs, needs=("sklearn",)),
        ),
        (Compare(NCA, at_most=0.2, memory_share=0.1),),
        rounds=3,
        long=True,
        n=n,
        note="30 epochs beside at most 50 iterations, each the default; "
        "accuracies: docs/interop/sklearn.md",
    )


CASES = {"metric_embedder": metric_embedder}
