"""Exact search over many documents, against faiss's flat index."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks import floors
from benchmarks.case import PLAIN, US, Arrays, Call, Case, Compare, Inputs, Side
from benchmarks.data import normal, unit

K, DEEP = 10, 100
FAISS, PRODUCT = "faiss-cpu flat", "the product alone"


def _ours(k: int) -> Side:
    def build(inputs: Inputs) -> Call:
        from coreframe.evaluation.retrieval import search

        return lambda: search(inputs["q"], inputs["documents"], k, similarity="dot")

    return Side(US, build, _scores, environment=PLAIN)


def _faiss(k: int) -> Side:
    def build(inputs: Inputs) -> Call:
        import faiss

        faiss.omp_set_num_threads(floors.threads())
        index = faiss.IndexFlatIP(inputs["documents"].shape[1])
        index.add(inputs["documents"])
        return lambda: index.search(inputs["q"], k)[1]

    return Side(FAISS, build, _scores, ("faiss",))


def _product() -> Side:
    """Queries times documents in blocks that are thrown away: nothing exact is faster."""

    def build(inputs: Inputs) -> Call:
        q, documents = inputs["q"], inputs["documents"]
        out = np.empty((512, min(16384, len(documents))), np.float32)

        def run() -> None:
            for i in range(0, len(q), 512):
                rows = q[i : i + 512]
                for j in range(0, len(documents), 16384):
                    part = documents[j : j + 16384]
                    if part.shape[0] == out.shape[1] and len(rows) == len(out):
                        np.matmul(rows, part.T, out=out)
                    else:
                        rows @ part.T

        return run

    return Side(PRODUCT, build, memory=False)


def _scores(found: np.ndarray) -> Arrays:
    return {"found": found[:64]}


def exact(inputs: Inputs, k: int) -> Arrays:
    """The best k of the first queries in float64; NumPy's order of rows breaks ties."""
    q = inputs["q"][:64].astype(np.float64)
    documents = inputs["documents"]
    best_scores = np.empty((len(q), 0))
    best = np.empty((len(q), 0), np.int64)
    for j in range(0, len(documents), 16384):
        s = q @ documents[j : j + 16384].astype(np.float64).T
        rows = np.broadcast_to(np.arange(j, j + s.shape[1]), s.shape)
        best_scores, best = np.hstack([best_scores, s]), np.hstack([best, rows])
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :k]
        best_scores = np.take_along_axis(best_scores, order, axis=1)
        best = np.take_along_axis(best, order, axis=1)
    return {"found": best}


def search(quick: bool, q: int = 10_000, n: int = 1_000_000, d: int = 384, k: int = K) -> Case:
    q, n, d = (500, 20_000, 64) if quick else (q, n, d)

    def make(q: int, n: int) -> Callable[[], Inputs]:
        return lambda: {"q": unit(normal(q, d, 0)), "documents": unit(normal(n, d, 1))}

    return Case(
        "search" if k == K else "search_deep",
        f"Exact top-{k} of {q:,} queries against {n:,} x {d}",
        make(q, n),
        make(64, 4096),
        (_ours(k), _faiss(k), _product()),
        (Compare(FAISS, at_most=1.1, memory_mib=512), Compare(PRODUCT)),
        partial(exact, k=k),
        accuracy="places",
        rounds=7 if quick else 1,
        long=not quick,
        n=n,
        note="faiss's own copy of the documents is made before, and counted for neither; of 64 "
        "queries all places are compared with float64",
    )


CASES = {"search": search, "search_deep": partial(search, k=DEEP)}
