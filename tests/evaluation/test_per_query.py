"""The file of test queries: what its lines say, and that they name the same question alike."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coreframe.data.pairs import Pairs
from coreframe.data.relevance import ListedRelevance
from coreframe.errors import ArtefactError, DataError
from coreframe.evaluation.per_query import (
    collection_of,
    identify,
    per_query_lines,
    read_per_query,
    same_questions,
)
from coreframe.evaluation.ranks import exact_ranks
from coreframe.evaluation.retrieval import evaluate


def data(n=30, seed=0, texts=True, dtype=np.float64, **options):
    rng = np.random.default_rng(seed)
    q, d = (rng.standard_normal((n, 6)).astype(np.float32).astype(dtype) for _ in range(2))
    if texts:
        options |= {
            "query_texts": [f"frage {i}" for i in range(n)],
            "document_texts": [f"antwort {i}" for i in range(n)],
        }
    return Pairs(q, d, **options)


def flip(x, side):
    return -x if side == "query" else x


def write(path, pairs, **more):
    both = {"base": evaluate(None, pairs), "adapted": evaluate(flip, pairs)}
    path.write_text("\n".join(per_query_lines(pairs, both, **more)) + "\n", encoding="utf-8")
    return both


def test_lines_say_what_was_found(tmp_path):
    pairs = data(groups=np.arange(30) // 3)
    found = write(tmp_path / "a.jsonl", pairs)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(lines) == 30
    for i, line in enumerate(lines):
        assert list(line) == [
            "query", "text", "group", "right", "collection", "base", "adapted", "rank"
        ]  # fmt: skip
        assert (line["text"], line["group"], line["right"]) == (f"frage {i}", i // 3, 1)
        for name in ("base", "adapted"):
            assert line[name] == {m: x[i] for m, x in found[name].values.items()}
            assert line["rank"][name] == (int(found[name].first[i]) or None)
    assert len({line["query"] for line in lines}) == 30
    assert {line["collection"] for line in lines} == {collection_of(pairs)}
    assert collection_of(pairs).startswith("30:")


def test_exact_ranks_may_be_given(tmp_path):
    pairs = data()
    ranks = {"base": exact_ranks(lambda x, side: x, pairs, evaluate(None, pairs))}
    write(tmp_path / "a.jsonl", pairs, ranks=ranks)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["rank"]["base"] for line in lines] == ranks["base"].rank.tolist()
    assert None in [line["rank"]["adapted"] for line in lines]


def test_reading_gives_the_evaluations_back(tmp_path):
    pairs = data(texts=False, groups=np.arange(30) // 2)
    found = write(tmp_path / "a.jsonl", pairs)
    read = read_per_query(tmp_path / "a.jsonl")
    rows = np.array([4, 2, 29])
    for name, want in found.items():
        for metric, x in want.values.items():
            np.testing.assert_array_equal(read.evaluation(name).values[metric], x)
            np.testing.assert_array_equal(read.evaluation(name, rows).values[metric], x[rows])
        np.testing.assert_array_equal(read.evaluation(name).first, want.first)
    np.testing.assert_array_equal(read.groups, pairs.groups)
    assert read.texts == (None,) * 30


# The same question ----------------------------------------------------------------------------


def test_names_depend_on_the_question_alone(library):
    pairs = data(texts=False)
    order = np.random.default_rng(1).permutation(30)
    there = Pairs(library.asarray(pairs.queries), library.asarray(pairs.documents))
    assert identify(there) == identify(pairs)
    assert identify(pairs.take(order)) == [identify(pairs)[i] for i in order]
    assert identify(data(texts=False, dtype=np.float32)) == identify(pairs)
    assert collection_of(there) == collection_of(pairs)


def test_texts_name_a_question_whatever_its_vector():
    assert identify(data(seed=1)) == identify(data(seed=2))
    assert collection_of(data(seed=1)) == collection_of(data(seed=2))
    assert identify(data(seed=1, texts=False)) != identify(data(seed=2, texts=False))


def test_what_is_right_is_part_of_the_question():
    pairs = data()
    other = data(relevant=np.roll(np.arange(30), 1))
    assert not set(identify(pairs)) & set(identify(other))
    listed = [[i, i] for i in range(30)] + [[0, 1]]
    more = data(relevant=listed)
    assert [a == b for a, b in zip(identify(pairs), identify(more), strict=True)].count(False) == 1
    swapped = data(relevant=listed[::-1])
    assert identify(swapped) == identify(more)
    gains = ListedRelevance.of(listed, 30, 30, np.ones(31) + np.arange(31) // 30)
    assert identify(data(relevance=gains))[0] != identify(more)[0]


def test_labels_have_names_too(rng):
    x, y = rng.standard_normal((20, 3)), np.arange(20) % 3
    names = identify(Pairs.labelled(x, y))
    assert len(set(names)) == 20
    assert names == identify(Pairs.labelled(x, y + 5))


def test_the_same_questions_are_found_in_any_order(tmp_path):
    pairs = data()
    order = np.random.default_rng(1).permutation(30)
    write(tmp_path / "a", pairs)
    write(tmp_path / "b", pairs.take(order))
    a, b = read_per_query(tmp_path / "a"), read_per_query(tmp_path / "b")
    rows = same_questions(a, b)
    assert [b.queries[i] for i in rows] == list(a.queries)
    for metric, x in a.evaluation("adapted").values.items():
        np.testing.assert_array_equal(b.evaluation("adapted", rows).values[metric], x)


def test_other_questions_and_collections_are_refused(tmp_path):
    pairs = data()
    write(tmp_path / "a", pairs.take(np.arange(20)))
    write(tmp_path / "b", pairs.take(np.arange(5, 30)))
    a, b = read_per_query(tmp_path / "a"), read_per_query(tmp_path / "b")
    with pytest.raises(DataError, match=r"20 and 25, of which 15 are asked in both .* --data"):
        same_questions(a, b)
    write(tmp_path / "c", data(31).take(np.arange(20)))
    with pytest.raises(DataError, match=r"different collections .30:.* and 31:.* --data"):
        same_questions(a, read_per_query(tmp_path / "c"))


# Damaged files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: "[]", "line 2: must be an object, got list"),
        (lambda x: x[:40], "line 2, cannot be read"),
        (lambda x: x.replace('"query"', '"q"'), "line 2: 'query' must be of type str, got None"),
        (lambda x: x.replace('"group": 1', '"group": 1.5'), "line 2: 'group' must be of type int"),
        (lambda x: x.replace('"base": {"recall@1"', '"base": {"r@1"'), "'base' must have the metr"),
        (lambda x: x.replace('"adapted": {"recall@1": 0', '"adapted": {"recall@1": 7'), "0 to 1"),
        (lambda x: x.replace('"rank": {"base"', '"rank": {"bose"'), "line 2: has bose, adapted"),
        (lambda x: x.replace('"rank": {"base": ', '"rank": {"base": -'), "the rank of 'base' must"),
        (lambda x: x.replace('"text": "frage 1"', '"text": 3'), "'text' must be a text or null"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, change, message):
    pairs = data()
    path = tmp_path / "per_query.jsonl"
    write(path, pairs, ranks={"base": exact_ranks(lambda x, side: x, pairs, evaluate(None, pairs))})
    lines = path.read_text().splitlines()
    changed = change(lines[1])
    assert changed != lines[1]
    path.write_text("\n".join([lines[0], changed, *lines[2:]]))
    with pytest.raises(ArtefactError, match=r"per_query\.jsonl") as caught:
        read_per_query(path)
    assert message in str(caught.value)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ArtefactError, match="does not exist"):
        read_per_query(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ArtefactError, match="has no lines"):
        read_per_query(tmp_path / "empty.jsonl")
