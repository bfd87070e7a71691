"""Gradients in float64, in blocks of rows: slow, plain, and without the package's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.case import Arrays, Inputs

ROWS = 512
Slope = Callable[[np.ndarray, slice], np.ndarray]
"""Takes a block of similarities (or distances) and its rows to d loss / d of each."""


def _unit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / length, length


def _back(du: np.ndarray, u: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the gradient before rows were scaled to length 1."""
    return (du - np.sum(du * u, axis=1, keepdims=True) * u) / length


def _blocks(n: int) -> list[slice]:
    return [slice(i, min(i + ROWS, n)) for i in range(0, n, ROWS)]


def of_products(u: np.ndarray, v: np.ndarray, slope: Slope) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of a function of u v^T by u and v."""
    du, dv = np.zeros_like(u), np.zeros_like(v)
    for rows in _blocks(len(u)):
        g = slope(u[rows] @ v.T, rows)
        du[rows] = g @ v
        dv += g.T @ u[rows]
    return du, dv


def of_distances(u: np.ndarray, slope: Slope) -> np.ndarray:
    """Return the gradient of a function of the distances of the rows of u by u."""
    du = np.zeros_like(u)
    squares = np.sum(u * u, axis=1)
    for rows in _blocks(len(u)):
        squared = squares[rows, None] + squares[None] - 2 * u[rows] @ u.T
        distances = np.sqrt(np.maximum(squared, 0))
        g = slope(distances, rows)
        g = np.where(distances > 0, g / np.where(distances > 0, distances, 1), 0)
        du[rows] += np.sum(g, axis=1, keepdims=True) * u[rows] - g @ u
        du += np.sum(g, axis=0)[:, None] * u - g.T @ u[rows]
    return du


def _logsumexp(z: np.ndarray) -> np.ndarray:
    top = np.max(z, axis=1, keepdims=True)
    return top + np.log(np.sum(np.exp(z - top), axis=1, keepdims=True))


def info_nce(temperature: float, symmetric: bool = False) -> Callable[[Inputs], Arrays]:
    """InfoNCE of pairs: the mean over anchors, or over both directions."""

    def exact(inputs: Inputs) -> Arrays:
        (u, u_length), (v, v_length) = _unit(inputs["a"]), _unit(inputs["b"])
        n = len(u)
        columns = None
        if symmetric:
            columns = np.concatenate(
                [_logsumexp(v[rows] @ u.T / temperature)[:, 0] for rows in _blocks(n)]
            )

        def slope(s: np.ndarray, rows: slice) -> np.ndarray:
            z = s / temperature
            g = np.exp(z - _logsumexp(z))
            if columns is not None:
                g = (g + np.exp(z - columns[None])) / 2
            g[np.arange(len(g)), np.arange(n)[rows]] -= 1
            return g / (n * temperature)

        du, dv = of_products(u, v, slope)
        return {"a": _back(du, u, u_length), "b": _back(dv, v, v_length)}

    return exact


def info_nce_rows(temperature: float, count: int = 256) -> Callable[[Inputs], Arrays]:
    """The same for the first anchors only, where all of them would take minutes."""

    def exact(inputs: Inputs) -> Arrays:
        (u, length), (v, _) = _unit(inputs["a"][:count]), _unit(inputs["b"])
        z = u @ v.T / temperature
        g = np.exp(z - _logsumexp(z))
        g[np.arange(len(g)), np.arange(len(g))] -= 1
        return {"a": _back(g @ v / (len(v) * temperature), u, length)}

    return exact


def adapter_step(temperature: float) -> Callable[[Inputs], Arrays]:
    """The gradient of W, the identity, in the InfoNCE of x W against documents."""
    loss = info_nce(temperature)
    return lambda inputs: {"W": inputs["a"].astype(np.float64).T @ loss(inputs)["a"]}


def _masks(labels: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    same = labels[rows, None] == labels[None]
    other = np.arange(len(labels))[rows, None] != np.arange(len(labels))[None]
    return same & other, ~same


def sup_con(temperature: float) -> Callable[[Inputs], Arrays]:
    """SupCon: the logarithm inside the mean over positives, over all other rows."""

    def exact(inputs: Inputs) -> Arrays:
        u, length = _unit(inputs["x"])

        def slope(s: np.ndarray, rows: slice) -> np.ndarray:
            positive, negative = _masks(inputs["labels"], rows)
            z = np.where(positive | negative, s / temperature, -np.inf)
            share = positive / np.sum(positive, axis=1, keepdims=True)
            return (np.exp(z - _logsumexp(z)) - share) / (len(u) * temperature)

        du, dv = of_products(u, u, slope)
        return {"x": _back(du + dv, u, length)}

    return exact


def nt_xent(temperature: float) -> Callable[[Inputs], Arrays]:
    """NT-Xent by labels: each positive against the negatives, the mean over positives."""

    def exact(inputs: Inputs) -> Arrays:
        u, length = _unit(inputs["x"])

        def slope(s: np.ndarray, rows: slice) -> np.ndarray:
            positive, negative = _masks(inputs["labels"], rows)
            z = s / temperature
            masked = np.where(negative, z, -np.inf)
            total = _logsumexp(masked)
            miss = positive / (1 + np.exp(np.where(positive, z - total, 0)))
            miss /= np.sum(positive, axis=1, keepdims=True)
            g = np.exp(masked - total) * np.sum(miss, axis=1, keepdims=True) - miss
            return g / (len(u) * temperature)

        du, dv = of_products(u, u, slope)
        return {"x": _back(du + dv, u, length)}

    return exact


def batch_hard(margin: float) -> Callable[[Inputs], Arrays]:
    """Triplets of the farthest positive and the nearest negative, the mean over anchors."""

    def exact(inputs: Inputs) -> Arrays:
        u = inputs["x"].astype(np.float64)

        def slope(d: np.ndarray, rows: slice) -> np.ndarray:
            positive, negative = _masks(inputs["labels"], rows)
            here = np.arange(len(d))
            far = np.argmax(np.where(positive, d, -np.inf), axis=1)
            near = np.argmin(np.where(negative, d, np.inf), axis=1)
            active = (d[here, far] - d[here, near] + margin > 0) / len(u)
            g = np.zeros_like(d)
            g[here, far] += active
            g[here, near] -= active
            return g

        return {"x": of_distances(u, slope)}

    return exact


def all_triplets(margin: float) -> Callable[[Inputs], Arrays]:
    """The mean over all triplets, where all anchors have as many."""

    def exact(inputs: Inputs) -> Arrays:
        u, labels = inputs["x"].astype(np.float64), inputs["labels"]

        def slope(d: np.ndarray, rows: slice) -> np.ndarray:
            positive, negative = _masks(labels, rows)
            g = np.zeros_like(d)
            for i in range(len(d)):
                there = np.flatnonzero(negative[i])
                for p in np.flatnonzero(positive[i]):
                    active = d[i, p] - d[i, there] + margin > 0
                    g[i, p] += np.sum(active)
                    g[i, there] -= active
            triplets = np.sum(positive, axis=1) * np.sum(negative, axis=1)
            return g / triplets[:, None] / len(u)

        return {"x": of_distances(u, slope)}

    return exact


def _beside(found: Arrays, exact: Arrays) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield arrays with what they should be, of which there may be the first rows only."""
    for name, want in exact.items():
        yield np.asarray(found[name])[: len(want)], want


def relative_distance(found: Arrays, exact: Arrays) -> float:
    """Return the length of the difference over that of the exact arrays, the worst of them."""
    return max(
        float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))
        for got, want in _beside(found, exact)
    )


def share_of_others(found: Arrays, exact: Arrays) -> float:
    """Return which share of entries is another."""
    return max(float(np.mean(got != want)) for got, want in _beside(found, exact))


def largest_error(found: Arrays, exact: Arrays) -> float:
    """Return the largest difference over the largest entry, the worst of the arrays."""
    return max(
        float(np.max(np.abs(got.astype(np.float64) - want)) / np.max(np.abs(want)))
        for got, want in _beside(found, exact)
    )
