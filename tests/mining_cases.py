"""The data and the options on which mining is compared with sentence-transformers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.data.mining import Mined, mine_hard_negatives
from coreframe.data.pairs import Pairs
from coreframe_text import callable as any_function

GOLDEN = Path(__file__).parent / "golden" / "hard_negatives.json"

ANCHORS = ["q0", "q1", "q2", "q1", "q3", "q4", "q1", "q5", "q5", "q6", "q7"]
POSITIVES = ["d0", "d1", "d2", "d3", "d2", "d4", "d5", "d6", "d0", "d7", "d8"]
CORPUS = ["d3", "x0", "x1", "d0", "x2", "x0", *(f"x{i}" for i in range(3, 18))]
"""Several right documents for q1 and q5, d2 and d0 right for two, texts that are there twice."""


def embed(texts: list[str]) -> Any:
    """Return a random vector for each text; that of a query is near its first right document."""
    rows = []
    for text in texts:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        row = np.random.default_rng(int.from_bytes(digest, "little")).normal(size=6)
        if text in ANCHORS:
            row = 0.6 * row + embed([POSITIVES[ANCHORS.index(text)]])[0]
        rows.append(row)
    return np.asarray(rows, dtype=np.float32)


def judge(pairs: list[tuple[str, str]]) -> Any:
    """Stand for a cross-encoder: another opinion, on another scale."""
    left, right = embed([a for a, _ in pairs]), embed([b for _, b in pairs])
    return np.tanh((left * right).sum(axis=1) / 4) * 3


FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")

OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_negatives": 1},
    {"num_negatives": 5, "range_min": 2},
    {"range_min": 1, "range_max": 9},
    {"absolute_margin": 0.0},
    {"absolute_margin": 0.15},
    {"absolute_margin": -0.2},
    {"relative_margin": 0.05},
    {"relative_margin": 0.5, "num_negatives": 2},
    {"relative_margin": -0.3},
    {"max_score": 0.5},
    {"min_score": 0.2},
    {"max_score": 0.6, "min_score": 0.1, "absolute_margin": 0.05, "relative_margin": 0.02},
    {"max_score": 0.4, "range_min": 1, "range_max": 12, "num_negatives": 4},
    {"num_negatives": 8},
    {"range_max": 100, "num_negatives": 4, "range_min": 17},
    {"cross_encoder": True},  # without a filter nobody is asked
    {"cross_encoder": True, "max_score": 1.5},
    {"cross_encoder": True, "min_score": -1.0, "num_negatives": 2},
    {"cross_encoder": True, "relative_margin": 0.1},
    {"include_positives": True, "num_negatives": 6},
    {"include_positives": True, "num_negatives": 3, "relative_margin": -0.05},
]


def cases() -> list[tuple[dict[str, Any], str, bool, bool]]:
    """Return options, format, whether with scores, and whether with a corpus of its own."""
    found = []
    for i, options in enumerate(OPTIONS):
        for j, output_format in enumerate(FORMATS):
            if not options.get("include_positives") or output_format == "n-tuple":
                found.append((options, output_format, (i + j) % 2 == 0, (i + j) % 3 > 0))
    return found


def pairs(with_corpus: bool) -> Pairs:
    embedder = any_function.Callable(function=embed)
    return Pairs.from_texts(ANCHORS, POSITIVES, embedder, corpus=CORPUS if with_corpus else ())


def ours(options: dict[str, Any], with_corpus: bool, **more: Any) -> Mined:
    given = dict(options)
    if given.pop("cross_encoder", False):
        given["cross_encoder"] = judge
    return mine_hard_negatives(pairs(with_corpus), **given, **more)


def in_one_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort rows: which of a query's right documents comes first is nobody's promise."""
    return sorted(
        rows, key=lambda row: json.dumps({k: v for k, v in row.items() if "score" not in k})
    )


def assert_rows(got: list[dict[str, Any]], want: list[dict[str, Any]]) -> None:
    """Assert equal columns in one order, equal texts and labels, and scores but for rounding."""
    assert len(got) == len(want)
    for mine, theirs in zip(in_one_order(got), in_one_order(want), strict=True):
        assert list(mine) == list(theirs)
        for name in mine:
            if "score" in name:
                np.testing.assert_allclose(mine[name], theirs[name], atol=2e-6)
            else:
                assert mine[name] == theirs[name]
