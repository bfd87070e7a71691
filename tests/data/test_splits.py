"""Train, dev and test: at random, by group, by time, as given; and what leaks is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe import config
from coreframe.data.loading import load_pairs
from coreframe.data.splits import Split, split_pairs
from coreframe.errors import ArgumentError, DataError

PARTS = ("train", "dev", "test")


def split(rows: list[dict[str, Any]], *, seed: int = 1, **values: Any) -> Split:
    given = [f"data.{k}={v!r}" for k, v in values.items()]
    settings = config.read(None, given)
    return split_pairs(load_pairs([rows], config=settings), settings.data, seed=seed)


def texts(found: Split) -> tuple[set[str], set[str], set[str]]:
    return tuple(set(getattr(found, part).query_texts) for part in PARTS)


def plain(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"query": f"q{i}", "answer": f"a{i}"} | {k: f(i) for k, f in more.items()}
        for i in range(count)
    ]


def told(found: Split, word: str) -> str:
    return next((note for note in found.notes if note.startswith(word)), "")


# At random and by group


def test_at_random_it_is_the_split_of_the_pairs() -> None:
    rows = plain(40)
    found = split(rows)
    settings = config.default()
    again = load_pairs([rows], config=settings).pairs.split(0.1, 0.2, seed=1)
    assert found.method == "random"
    assert texts(found) == tuple(set(part.query_texts) for part in again)
    assert texts(split(rows)) == texts(found)
    assert texts(split(rows, seed=2)) != texts(found)


def test_by_group() -> None:
    found = split(plain(60, group=lambda i: i % 12), split="group")
    assert found.method == "group"
    groups = [{int(t[1:]) % 12 for t in part} for part in texts(found)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


# By time


def test_by_time_the_latest_are_the_test() -> None:
    order = np.random.default_rng(0).permutation(50)
    found = split(plain(50, time=lambda i: int(order[i])), split="time", dev=0.2, test=0.1)
    train, dev, test = (sorted(int(order[int(t[1:])]) for t in part) for part in texts(found))
    assert (len(train), len(dev), len(test)) == (35, 10, 5)
    assert max(train) < min(dev)
    assert max(dev) < min(test)
    assert told(found, "split").endswith("by time: the latest are the test")


@given(times=st.lists(st.integers(0, 6), min_size=10, max_size=40))
def test_one_moment_is_in_one_part(times: list[int]) -> None:
    rows = plain(len(times), time=lambda i: times[i])
    try:
        found = split(rows, split="time")
    except DataError as error:
        assert "are too few to split by" in str(error)  # noqa: PT017
        return
    parts = [{times[int(t[1:])] for t in part} for part in texts(found)]
    assert max(parts[0]) < min(parts[1])
    assert max(parts[1]) < min(parts[2])


def test_a_query_is_as_late_as_its_latest_row() -> None:
    rows = plain(30, time=lambda i: i)
    rows.append({"query": "q0", "answer": "new", "time": 99})
    train, dev, test = texts(split(rows, split="time"))
    assert "q0" in test
    assert "q0" not in train | dev


def test_a_group_does_not_span_time() -> None:
    rows = plain(40, time=lambda i: i, group=lambda i: "x" if i in (2, 39) else f"g{i}")
    found = split(rows, split="time")
    assert "q39" in texts(found)[2]
    assert "q2" not in texts(found)[0]
    assert told(found, "leakage") == (
        "leakage 1 train query also in test, by text or group: left out of train"
    )


# Given


def given_rows() -> list[dict[str, Any]]:
    return plain(30, split=lambda i: ("train", "train", "validation", "test")[i % 4])


def test_given_parts_are_taken() -> None:
    found = split(given_rows())
    assert found.method == "given"
    for part, name in zip(texts(found), ("train", "validation", "test"), strict=True):
        assert part == {r["query"] for r in given_rows() if r["split"] == name}
    assert split(given_rows(), split="random").method == "random"


def test_a_column_of_parts_by_another_name() -> None:
    rows = [{k.replace("split", "fold"): v for k, v in row.items()} for row in given_rows()]
    assert split(rows, split_column="fold").method == "given"


def test_a_missing_part_is_drawn_from_train() -> None:
    rows = plain(50, split=lambda i: "test" if i < 10 else "train")
    found = split(rows)
    assert texts(found)[2] == {f"q{i}" for i in range(10)}
    assert len(found.dev) == 4
    assert len(found.train) == 36
    assert told(found, "split   no dev part") != ""
    assert texts(split(rows)) == texts(found)
    rows = plain(50, split=lambda i: "dev" if i < 10 else "train")
    found = split(rows)
    assert texts(found)[1] == {f"q{i}" for i in range(10)}
    assert len(found.test) == 8


def test_one_part_is_split() -> None:
    found = split(plain(50, split=lambda i: "test"))
    assert found.method == "random"
    assert "split   the data has the part test only, so all of it is split" in found.notes
    with pytest.raises(DataError, match="the data gives no train part"):
        split(plain(50, split=lambda i: "test"), split="given")


def leaking() -> list[dict[str, Any]]:
    rows = plain(30, split=lambda i: PARTS[i % 3])
    return [
        *rows,
        {"query": "q2", "answer": "other", "split": "train"},  # q2 is of the test
        {"query": "q1", "answer": "other", "split": "train"},  # and q1 of dev
        {"query": "q5", "answer": "a5", "split": "dev"},
    ]


def test_leaks_are_left_out_of_the_earlier_part() -> None:
    found = split(leaking())
    train, dev, test = texts(found)
    assert {"q2", "q1"} & train == set()
    assert "q1" in dev
    assert {"q2", "q5"} <= test
    assert "q5" not in dev
    assert [note for note in found.notes if note.startswith("leakage")] == [
        "leakage 1 train query also in test, by text or group: left out of train",
        "leakage 1 dev query also in test, by text or group: left out of dev",
        "leakage 1 train query also in dev, by text or group: left out of train",
    ]


def test_leaks_may_be_kept_or_refused() -> None:
    kept = split(leaking(), leakage="keep")
    assert "q2" in texts(kept)[0] & texts(kept)[2]
    assert "KEPT" in told(kept, "leakage")
    with pytest.raises(DataError, match=r"leakage: 1 train query also in test, .* such as 'q2'"):
        split(leaking(), leakage="refuse")


def test_wrong_documents_that_are_right_in_the_test_are_not_trained_on() -> None:
    rows = given_rows()
    for row in rows:
        row["negative"] = "a3"  # right for q3, which is of the test
    found = split(rows)
    assert len(found.train.irrelevant) == 0
    assert len(found.test.irrelevant) > 0


def test_shared_documents_are_told() -> None:
    rows = given_rows()
    rows.append({"query": "new", "answer": "a3", "split": "train"})
    assert told(split(rows), "shared").startswith("shared  1 of 7 right documents of test are")


def test_classes_in_given_parts() -> None:
    rows = [
        {"text": f"word{i} more{i}", "label": i % 3, "split": ("train", "dev", "test")[i % 4 % 3]}
        for i in range(40)
    ]
    found = split(rows)
    assert found.method == "given"
    assert (len(found.train), len(found.dev), len(found.test)) == (20, 10, 10)
    assert found.test.documents.shape[0] == 20  # it searches what is trained on


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"split": "given"}, "needs data in parts"),
        ({"split": "time"}, "needs a column 'time', 'date' or 'timestamp'"),
        ({"split": "group"}, "needs a column 'group'"),
    ],
)
def test_what_a_split_needs(values: dict[str, str], expected: str) -> None:
    with pytest.raises(ArgumentError, match=expected):
        split(plain(20), **values)
