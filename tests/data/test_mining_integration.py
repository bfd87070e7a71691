"""Hard negatives beside the real sentence-transformers, on the same embeddings."""

from __future__ import annotations

import json
import warnings
from typing import Any

import mining_cases as cases
import numpy as np
import pytest

from coreframe.data.mining import mine_hard_negatives, rules
from coreframe.data.mining.search import make_search
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError

pytestmark = pytest.mark.integration


class Model:
    """What sentence-transformers asks of a model, with the embeddings of the cases."""

    device = "cpu"

    def encode_query(self, texts: list[str], **options: Any) -> Any:
        rows = cases.embed(texts)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encode_document = encode_query

    def similarity(self, a: Any, b: Any) -> Any:
        from sentence_transformers.util import cos_sim

        return cos_sim(a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        from sentence_transformers.util import pairwise_cos_sim

        return pairwise_cos_sim(a, b)


class Judge:
    def predict(self, pairs: list[tuple[str, str]], **options: Any) -> Any:
        import torch

        return torch.tensor(cases.judge(list(pairs)), dtype=torch.float32)


def theirs(
    options: dict[str, Any], output_format: str, scored: bool, with_corpus: bool
) -> list[dict[str, Any]]:
    pytest.importorskip("sentence_transformers")
    datasets = pytest.importorskip("datasets")
    from sentence_transformers.util import mine_hard_negatives

    given = dict(options)
    if given.pop("cross_encoder", False):
        given["cross_encoder"] = Judge()
    data = datasets.Dataset.from_dict({"anchor": cases.ANCHORS, "positive": cases.POSITIVES})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mine_hard_negatives(
            data,
            Model(),
            corpus=list(cases.CORPUS) if with_corpus else None,
            output_format=output_format,
            output_scores=scored,
            verbose=False,
            **given,
        )
    return found.to_list()


@pytest.mark.parametrize("case", cases.cases(), ids=str)
@pytest.mark.filterwarnings("ignore")
def test_rows_equal_those_of_sentence_transformers(case: Any) -> None:
    options, output_format, scored, with_corpus = case
    mined = cases.ours(options, with_corpus)
    got = list(mined.rows(output_format, output_scores=scored))
    cases.assert_rows(got, theirs(*case))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options", [{}, {"relative_margin": 0.05}, {"range_max": 4}, {"max_score": 0.2}]
)
def test_a_random_choice_is_among_the_same_candidates(options: dict[str, Any], monkeypatch) -> None:
    """Both made to take the last of what they may choose from."""
    from sentence_transformers.util import hard_negatives

    monkeypatch.setattr(hard_negatives.random, "sample", lambda options, k: list(options)[-k:])

    def last(rules_: Any, ranked: Any, rows: Any) -> Any:
        k = rules_.num_negatives
        number = np.maximum((ranked > -np.inf).sum(axis=1), k)
        return number[:, None] - k + np.arange(k)

    monkeypatch.setattr(rules, "_choose_columns", last)
    options = {**options, "sampling_strategy": "random"}
    got = list(cases.ours(options, True).rows(output_scores=True))
    cases.assert_rows(got, theirs(options, "triplet", True, True))


@pytest.mark.filterwarnings("ignore")
def test_the_recorded_rows_are_theirs() -> None:
    """tests/golden/hard_negatives.json, which the other tests read, is what they give today."""
    stored = json.loads(cases.GOLDEN.read_text(encoding="utf-8"))
    assert len(stored) == len(cases.cases())
    for case, want in zip(cases.cases(), stored, strict=True):
        cases.assert_rows(theirs(*case), want)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("search", "options"),
    [
        ("faiss", {}),
        ("faiss", {"index": "IVF2,Flat", "index_parameters": "nprobe=2"}),
        ("usearch", {}),
        ("usearch", {"index_parameters": "expansion_search=128,connectivity=32"}),
    ],
)
def test_indexes_find_what_the_exact_search_finds(search: str, options: dict[str, Any]) -> None:
    pytest.importorskip(search)
    exact = cases.ours({"relative_margin": 0.05}, True)
    mined = cases.ours({"relative_margin": 0.05}, True, search=search, **options)
    np.testing.assert_array_equal(mined.negatives, exact.negatives)
    np.testing.assert_array_equal(mined.scores, exact.scores)
    assert mined.approximate == (search == "usearch" or "index" in options)
    assert mined.recall == (1.0 if mined.approximate else None)
    assert mined.search.startswith(search)


@pytest.mark.filterwarnings("ignore")
def test_what_an_approximate_search_misses_is_measured() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 16)).astype(np.float32)
    q = x[:80] + 0.3 * rng.normal(size=(80, 16)).astype(np.float32)
    pairs = Pairs(q, x, np.arange(80))
    options = {"index": "IVF64,Flat", "index_parameters": "nprobe=2"}
    mined = mine_hard_negatives(pairs, num_negatives=9, search="faiss", **options)
    searches = [make_search(x, "exact"), make_search(x, "faiss", **options)]
    exact, found = (search.candidates(q, 11)[0] for search in searches)
    share = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])
    assert 0.2 < share < 1
    assert mined.recall == pytest.approx(share)
    assert mined.approximate
    assert mined.search == "faiss IVF64,Flat nprobe=2"
    # What was found has its exact score.
    there = mined.negatives >= 0
    rows, columns = np.nonzero(there)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, x)]
    want = np.einsum("id,id->i", unit[0][rows], unit[1][mined.negatives[rows, columns]])
    np.testing.assert_allclose(mined.scores[there], want, atol=1e-6)


@pytest.mark.parametrize(
    ("search", "options", "text"),
    [
        ("faiss", {"index": "Nope9"}, "cannot make index='Nope9'"),
        ("faiss", {"index": "IVF2,Flat", "index_parameters": "mprobe=1"}, "mprobe"),
        ("usearch", {"index_parameters": "speed=9"}, "index_parameters of usearch are"),
        ("usearch", {"index": "Flat"}, "usearch has one kind"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_indexes_that_cannot_be(search: str, options: dict[str, Any], text: str) -> None:
    pytest.importorskip(search)
    with pytest.raises(ArgumentError, match=text):
        cases.ours({}, True, search=search, **options)


def record() -> None:
    """Write the golden file: python tests/data/test_mining_integration.py."""
    rows = [theirs(*case) for case in cases.cases()]
    lines = ",\n".join(json.dumps(part) for part in rows)
    cases.GOLDEN.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    record()
