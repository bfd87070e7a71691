"""Augmentation: the three kinds, what stays, and how many copies there are."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe.data.augment import INSERTIONS, SYNONYMS, Augmentation
from coreframe.data.examples import Example
from coreframe.errors import ArgumentError, ArgumentTypeError

OFF = {"synonym_probability": 0, "insertion_probability": 0, "case_probability": 0}


def only(kind: str, **fields: Any) -> Augmentation:
    return Augmentation(**{**OFF, f"{kind}_probability": 1, "factor": 100, **fields})


def anchors(augmentation: Augmentation, text: str, seed: int = 0) -> set[str]:
    copies = augmentation.copies(Example(text, "o"), np.random.default_rng(seed))
    return {example.anchor for example in copies}


# The kinds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("write code", {"create code", "make code", "write program", "write script"}),
        ("Write WRITE write", {"Create CREATE create", "Make MAKE make"}),
        ("wRiTe it", {"create it", "make it"}),
        ("rewrite the decoder, write_code", set()),
        ("help!", {"assist!", "aid!"}),
        ("(help)\tus", {"(assist)\tus", "(aid)\tus"}),
        ("code\u0301", set()),  # an accent belongs to the word
        ("", set()),
    ],
)
def test_synonyms_are_whole_words_in_their_case(text: str, want: set[str]) -> None:
    assert anchors(only("synonym"), text) == want


def test_a_table_of_the_user_in_any_script() -> None:
    table = {"Straße": ("weg",), "café": ("bar à vin",), "猫": ("犬",)}
    augmentation = only("synonym", synonyms=table)
    assert anchors(augmentation, "STRASSE") == {"WEG"}
    assert anchors(augmentation, "die straße") == {"die weg"}
    assert anchors(augmentation, "Café CAFÉ") == {"Bar à vin BAR À VIN"}
    assert anchors(augmentation, "猫 と 猫舌") == {"犬 と 猫舌"}
    assert anchors(augmentation, "help") == set()


def test_an_insertion_stands_at_every_place_and_keeps_the_spaces() -> None:
    assert anchors(only("insertion"), " one\ttwo ") == {
        text.replace("_", word)
        for word in INSERTIONS
        for text in (" _ one\ttwo ", " one\t_ two ", " one\ttwo _ ")
    }
    assert anchors(only("insertion"), " \n") == set()
    assert anchors(only("insertion", insertions=()), "one two") == set()
    assert anchors(only("insertion", insertions=("bitte",)), "日本") == {"bitte 日本", "日本 bitte"}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Ask me", {"ask me", "ASK ME"}),
        ("aSK", {"ask", "Ask", "ASK"}),
        ("Große Éclairs", {"große éclairs", "Große éclairs", "GROSSE ÉCLAIRS"}),
        ("日本", set()),
    ],
)
def test_case(text: str, want: set[str]) -> None:
    assert anchors(only("case"), text) == want


@pytest.mark.parametrize(
    ("kind", "weight"), [("synonym", 0.9), ("insertion", 0.85), ("case", 0.95)]
)
def test_a_copy_weighs_less_and_keeps_the_rest(kind: str, weight: float) -> None:
    example = Example(
        "Write code", "o", negatives=("n",), quality=0.5, difficulty=3, metadata={"k": [1]}
    )
    for augmentation, factor in (
        (only(kind), weight),
        (only(kind, **{f"{kind}_weight": 0.1}), 0.1),
    ):
        copies = augmentation.copies(example, np.random.default_rng(0))
        assert copies
        for made in copies:
            assert made.quality == 0.5 * factor
            assert (made.positive, made.negatives, made.difficulty, made.metadata) == (
                "o", ("n",), 3.0, {"k": [1]},
            )  # fmt: skip


# How many -------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", range(9))
def test_factor_minus_one_different_copies(factor: int) -> None:
    rng = np.random.default_rng(factor)
    for _ in range(100):
        made = Augmentation(factor=factor).copies(Example("a b", "o"), rng)
        texts = [example.anchor for example in made]
        assert len(set(texts) - {"a b"}) == len(texts) == max(0, factor - 1)


def test_fewer_where_there_are_no_more() -> None:
    assert anchors(Augmentation(factor=50, insertion_probability=0), "Ask") == {"ask", "ASK"}
    assert anchors(Augmentation(factor=3), "") == set()
    assert anchors(Augmentation(factor=3, **OFF), "write code") == set()


def test_the_probabilities_are_those_of_a_round() -> None:
    """The first copy of many draws is of each kind as often as the first success of a round."""
    rng = np.random.default_rng(0)
    count = 20_000
    kinds: Counter[float] = Counter()
    for _ in range(count):
        [made] = Augmentation().copies(Example("Write it", "o"), rng)
        kinds[made.quality] += 1
    # One of the three cases, the capital one, changes nothing; then the next round decides.
    p = np.array([0.5, 0.5 * 0.3, 0.5 * 0.7 * 0.3 * 2 / 3])
    shares = np.array([kinds[w] for w in (0.9, 0.85, 0.95)]) / count
    np.testing.assert_allclose(shares, p / p.sum(), atol=0.012)


@given(st.text(max_size=30), st.integers(0, 6), st.integers(0, 2**32))
def test_any_text(text: str, factor: int, seed: int) -> None:
    augmentation = Augmentation(factor=factor)
    example = Example(text, "o")
    made = augmentation.copies(example, np.random.default_rng(seed))
    texts = [copied.anchor for copied in made]
    assert len(set(texts)) == len(texts) < max(1, factor)
    assert text not in texts
    assert made == augmentation.copies(example, np.random.default_rng(seed))


def test_draws_come_in_the_stated_order() -> None:
    class Counting:
        def __init__(self) -> None:
            self.numbers = itertools.chain([0.1, 0.9, 0.9, 0.1, 0.9], itertools.repeat(0.99))

        def random(self) -> float:
            return next(self.numbers)

    # Synonym yes, the last; insertion no; case yes, the last.
    made = Augmentation(factor=3).copies(Example("write code", "o"), Counting())
    assert [example.anchor for example in made] == ["write script", "WRITE CODE"]


# Fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"factor": -1}, ArgumentError, "factor must be at least 0, got -1"),
        ({"factor": 1.5}, ArgumentTypeError, "factor must be an integer"),
        ({"case_probability": 1.1}, ArgumentError, "case_probability must be .* at most 1"),
        ({"synonym_weight": -0.1}, ArgumentError, "synonym_weight must be at least 0"),
        ({"synonyms": {"a b": ("c",)}}, ArgumentError, "single words as keys, got 'a b'"),
        ({"synonyms": {"a": "bcd"}}, ArgumentTypeError, r"synonyms\['a'\] must be a sequence"),
        ({"insertions": "please"}, ArgumentTypeError, "insertions must be a sequence of words"),
        ({"insertions": ("",)}, ArgumentTypeError, "insertions must be a sequence of words"),
    ],
)
def test_wrong_fields_are_named(fields: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Augmentation(**fields)


def test_it_is_a_value() -> None:
    augmentation = Augmentation(factor=4, synonyms={"Big": ["large"]})  # type: ignore[dict-item]
    assert augmentation.synonyms == {"big": ("large",)}
    for other in (pickle.loads(pickle.dumps(augmentation)), copy.deepcopy(augmentation)):
        assert other == augmentation
        assert hash(other) == hash(augmentation)
    assert Augmentation().synonyms == SYNONYMS
    assert Augmentation() != augmentation
