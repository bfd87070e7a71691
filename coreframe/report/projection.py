"""The two-dimensional map of a sample of test vectors, before and after."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.artefact import TrainedAdapter
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, LabelRelevance, ListedRelevance
from coreframe.report.examples import rows_of

PAIRS = 120
VECTORS = 400
CLASSES = 6
"""Labels that have a colour of their own, the most frequent ones; the others share one."""

Points = NDArray[np.float64]


def project(before: Points, after: Points) -> tuple[Points, Points, str]:
    """Return both sets of rows in one plane, (n, 2) each, and how it was found.

    By UMAP where it is installed (the extra umap), else by the two main axes of both sets together.
    """
    both = np.concatenate([before, after])
    if find_spec("umap") is not None and len(both) > 15:
        import umap

        flat = umap.UMAP(n_components=2, metric="cosine", random_state=0, n_jobs=1).fit_transform(
            both
        )
        found, how = np.asarray(flat, dtype=np.float64), "UMAP of both together, by cosine"
    else:
        found, share = pca(both)
        how = f"the two main axes of both together, which hold {share:.0%} of the variance"
    return found[: len(before)], found[len(before) :], how


def pca(x: Points) -> tuple[Points, float]:
    """Return rows on their two main axes (n, 2), and the share of the variance that these hold.

    An axis points to where its largest component is positive, so a map is the same each time.
    """
    centred = x - x.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    flat = np.zeros((len(x), 2))
    flat[:, : len(axes)] = centred @ axes.T
    total = float((values**2).sum())
    return flat, float((values[:2] ** 2).sum()) / total if total else 1.0


def vector_map(pairs: Pairs, shown: TrainedAdapter) -> dict[str, Any]:
    """Return the map of a sample: ``how``, ``classes`` and two panels of [x, y, class] points.

    Of pairs, queries (class 0) and their right documents (class 1), in this order, with as many
    lines between them; of labelled vectors, each with the place of its label in ``classes``.
    """
    base = TrainedAdapter(shown.dimensions)
    if isinstance(pairs.relevance, LabelRelevance):
        labels = np.asarray(pairs.relevance.query_labels)
        rows = _spread(np.arange(len(labels)), VECTORS)
        values, counts = np.unique(labels[rows], return_counts=True)
        frequent = values[np.argsort(-counts, kind="stable")][:CLASSES].tolist()
        place = {label: i for i, label in enumerate(frequent)}
        classes = [place.get(label, len(frequent)) for label in labels[rows].tolist()]
        names = [f"label {label}" for label in frequent]
        names += ["other labels"] if len(values) > len(frequent) else []
        x = rows_of(pairs.queries, rows)
        before, after = (adapter(x, side="query") for adapter in (base, shown))
        joined = False
    elif isinstance(pairs.relevance, ListedRelevance) and len(pairs.relevance.pairs):
        chosen = pairs.relevance.pairs[_spread(np.arange(len(pairs.relevance.pairs)), PAIRS)]
        q, d = rows_of(pairs.queries, chosen[:, 0]), rows_of(pairs.documents, chosen[:, 1])
        before, after = (
            np.concatenate([adapter(q, side="query"), adapter(d, side="document")])
            for adapter in (base, shown)
        )
        classes, names, joined = [0] * len(q) + [1] * len(d), ["queries", "right documents"], True
    else:
        return {}
    flat_before, flat_after, how = project(before, after)
    return {
        "how": how,
        "classes": names,
        "joined": joined,
        "panels": [_points(flat_before, classes), _points(flat_after, classes)],
    }


def _spread(rows: Ints, most: int) -> Ints:
    """Return at most so many rows, at even distances."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _points(flat: Points, classes: list[int]) -> list[list[float]]:
    return [[round(x, 4), round(y, 4), c] for (x, y), c in zip(flat.tolist(), classes, strict=True)]
