"""The embedders. Hashing: exact, the same everywhere, and as good as scikit-learn's."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest

from coreframe import registry
from coreframe.data.cache import Cached
from coreframe.embedder import Embedder
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe_text.hashing import Hashing
from coreframe_text.sha256 import Sha256
from coreframe_text.wordllama import WordLlama


def by_hand(text: str, ngrams: tuple[int, int], dimensions: int) -> np.ndarray:
    """The definition, one n-gram at a time, for text that is lower case already."""
    row = np.zeros(dimensions)
    for word in text.split():
        padded = f"\n{word}\n"
        for n in range(ngrams[0], ngrams[1] + 1):
            for start in range(len(padded) - n + 1):
                gram = padded[start : start + n]
                if gram == "\n":
                    continue
                state = 0xCBF29CE484222325
                for character in gram:
                    state = ((state ^ ord(character)) * 0x100000001B3) % 2**64
                state = ((state ^ state >> 32) * 0x9E3779B97F4A7C15) % 2**64 >> 31
                row[(state >> 1) % dimensions] += 1 - 2 * (state & 1)
    return row / (np.linalg.norm(row) or 1)


TEXTS = ["a", "ab", "hello world", "", "  two   spaces ", "日本語 テキスト", "👩‍🍳 x", "i " * 40]


@pytest.mark.parametrize("ngrams", [(1, 1), (1, 3), (2, 2), (2, 3), (3, 5), (4, 9)])
@pytest.mark.parametrize("dimensions", [1, 7, 512])
def test_equals_the_definition(ngrams: tuple[int, int], dimensions: int) -> None:
    rows = Hashing(ngrams=ngrams, dimensions=dimensions).embed(TEXTS)
    expected = [by_hand(text, ngrams, dimensions) for text in TEXTS]
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_across_words_every_window_of_the_text_counts() -> None:
    rows = Hashing(ngrams=(2, 4), word_boundaries=False).embed(["a b", "ab", "b a"])
    joined = by_hand("a_b", (2, 4), 512)  # same windows, with another character for the space
    assert rows.shape == (3, 512)
    assert np.count_nonzero(rows[0]) == np.count_nonzero(joined)
    assert rows[0] @ rows[2] < 0.99
    within = Hashing(ngrams=(2, 4)).embed(["a b", "b a"])
    np.testing.assert_array_equal(within[0], within[1])


def test_a_text_does_not_depend_on_its_neighbours_or_the_block() -> None:
    texts = [f"text {i} {'x' * (i % 7)}" for i in range(2500)]
    rows = Hashing(dimensions=32).embed(texts)
    for i in (0, 1023, 1024, 2499):
        np.testing.assert_array_equal(rows[i], Hashing(dimensions=32).embed([texts[i]])[0])


GOLDEN = (
    "6a41b2be6a4132bf6a4132be6a41323e000000000fb1053f6a4132be6a41323e"
    "8f84c13e8f84413f000000008f84c1be8f84c1be000000000000000000000000"
    "8f84c1be00000000000000008f84c1be000000008f84c1be8f8441bf00000000"
)


def test_the_bits_are_the_same_everywhere() -> None:
    rows = Hashing(dimensions=8).embed(["Straße nach Zürich", "two", "日本"])
    assert rows.tobytes().hex() == GOLDEN


def test_the_bits_do_not_depend_on_the_hash_seed() -> None:
    program = (
        "from coreframe_text.hashing import Hashing;"
        "print(Hashing(dimensions=8).embed(['Straße nach Zürich','two','日本']).tobytes().hex())"
    )
    for seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert done.stdout.strip() == GOLDEN, done.stderr


@pytest.mark.parametrize(
    ("one", "other"),
    [("Straße", "STRASSE"), ("ﬁsh", "FISH"), ("é", "e\u0301"), ("a\u00a0b", "a  b\n")],
)
def test_spellings_that_are_the_same_text(one: str, other: str) -> None:
    rows = Hashing().embed([one, other])
    np.testing.assert_array_equal(rows[0], rows[1])


def test_case_can_be_kept() -> None:
    rows = Hashing(lowercase=False).embed(["Berg", "berg"])
    assert rows[0] @ rows[1] < 0.9


def test_odd_code_points_are_code_points() -> None:
    rows = Hashing().embed(["👩", "👨", "\ud800", "\x00"])  # astral, a lone surrogate, NUL
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert abs(rows[0] @ rows[1]) < 0.9


@pytest.mark.parametrize("ngrams", [(1, 1), (2, 3), (4, 4)])
def test_empty_texts_are_zero_rows(ngrams: tuple[int, int]) -> None:
    embedder = Hashing(ngrams=ngrams)
    assert embedder.embed([]).shape == (0, 512)
    for texts in ([""], ["", " \n\t "], ["", "word", ""]):
        rows = embedder.embed(texts)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(
            np.linalg.norm(rows, axis=1), [float(bool(text.strip())) for text in texts], atol=1e-6
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dimensions": 0}, "dimensions must be at least 1, got 0"),
        ({"ngrams": (0, 2)}, "1 <= shortest <= longest"),
        ({"ngrams": (3, 2)}, "1 <= shortest <= longest"),
        ({"ngrams": (2, 2.5)}, "two integers"),
        ({"ngrams": 3}, "two integers"),
    ],
)
def test_wrong_fields_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Hashing(**fields)


def test_ngrams_may_come_as_a_list() -> None:
    assert Hashing(ngrams=[2, 4]) == Hashing(ngrams=(2, 4))  # type: ignore[arg-type]


def test_one_string_is_not_a_list_of_texts() -> None:
    with pytest.raises(ArgumentTypeError, match="one string"):
        Hashing().embed("text")


@pytest.mark.parametrize("embedder", [Hashing(), Sha256(), WordLlama(), Cached(embedder=Sha256())])
def test_what_is_no_text_is_named(embedder: Embedder) -> None:
    with pytest.raises(ArgumentTypeError, match=r"texts\[1\] must be a text, got None"):
        embedder.embed(["a", None])  # type: ignore[list-item]
    with pytest.raises(ArgumentTypeError, match="must be a sequence of strings, got generator"):
        embedder.embed(x for x in "ab")  # type: ignore[arg-type]


def found(queries: np.ndarray, documents: np.ndarray, right: list[int]) -> float:
    """The share of queries whose document is among the ten best."""
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
    return float(np.mean((order == np.asarray(right)[:, None]).any(axis=1)))


def test_as_good_as_scikit_learn() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    emoji = pytest.importorskip("emoji")
    emoji.config.load_language("de")
    clean = str.maketrans({":": None, "_": " "})
    names = {
        entry["de"].translate(clean): entry["en"].translate(clean)
        for entry in emoji.EMOJI_DATA.values()
        if "de" in entry and "skin_tone" not in entry["en"]
    }
    documents = sorted(set(names.values()))
    right = [documents.index(name) for name in names.values()]
    ours = Hashing(ngrams=(2, 4))
    theirs = text.HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=512)
    score = found(ours.embed(list(names)), ours.embed(documents), right)
    reference = found(
        theirs.transform(names).toarray(), theirs.transform(documents).toarray(), right
    )
    assert score > reference - 0.02  # hash collisions alone spread it by about 0.005
    assert score > 0.36


# sha256 ---------------------------------------------------------------------------------------


def units_of(text: str) -> list[int]:
    """The UTF-16 units of a text, from the definition."""
    units: list[int] = []
    for character in text:
        code = ord(character)
        if code < 0x10000:
            units.append(code)
        else:
            code -= 0x10000
            units += [0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF)]
    return units


def sha256_by_hand(text: str, dimensions: int, normalize: bool) -> np.ndarray:
    """The definition, one number at a time; for text without lone surrogates."""
    digest = hashlib.sha256(text.encode()).digest()
    row = [(digest[i % 32] - 128) / 128 for i in range(dimensions)]
    for i, unit in enumerate(units_of(text)[:dimensions]):
        row[i] += (unit - 64) / 256
    norm = math.sqrt(sum(x * x for x in row)) or 1.0
    return np.asarray([x / norm if normalize else x for x in row], dtype=np.float32)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2, 7, 31, 32, 33, 384, 2048])
def test_sha256_equals_the_definition(dimensions: int, normalize: bool) -> None:
    texts = [*TEXTS, "x" * 3000, "a😀" * 20, "\U0010ffff\x00"]
    rows = Sha256(dimensions=dimensions, normalize=normalize).embed(texts)
    assert rows.dtype == np.float32
    want = [sha256_by_hand(text, dimensions, normalize) for text in texts]
    np.testing.assert_array_equal(rows, want)


@pytest.mark.parametrize(
    ("text", "hashed", "units"),
    [
        ("\ud800", "\ufffd", [0xD800]),
        ("a\ud800b", "a\ufffdb", [97, 0xD800, 98]),
        ("\udc00\ud800", "\ufffd\ufffd", [0xDC00, 0xD800]),
        ("\ud83d\ude00", "😀", [0xD83D, 0xDE00]),
        ("\ud800\ud800\udc00", "\ufffd\U00010000", [0xD800, 0xD800, 0xDC00]),
    ],
)
def test_sha256_of_half_characters_is_that_of_javascript(
    text: str, hashed: str, units: list[int]
) -> None:
    """What ``crypto.createHash("sha256").update(text)`` of Node.js 20 hashes."""
    digest = hashlib.sha256(hashed.encode()).digest()
    want = [(digest[i] - 128) / 128 for i in range(4)]
    for i, unit in enumerate(units):
        want[i] += (unit - 64) / 256
    assert Sha256(dimensions=4, normalize=False).embed([text])[0].tolist() == want


def test_sha256_does_not_depend_on_the_neighbours_or_the_block() -> None:
    texts = [f"text {i}" for i in range(2500)]
    rows = Sha256(dimensions=8).embed(texts)
    for i in (0, 1023, 1024, 2499):
        np.testing.assert_array_equal(rows[i], Sha256(dimensions=8).embed([texts[i]])[0])
    assert Sha256(dimensions=8).embed([]).shape == (0, 8)


def test_a_long_text() -> None:
    text = "wörter " * 150_000  # above 1 MB
    for embedder in (Sha256(dimensions=8), Hashing(dimensions=8)):
        rows = embedder.embed([text, text + "x"])
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        assert not np.array_equal(rows[0], rows[1])


def test_sha256_has_a_name_and_named_errors() -> None:
    assert isinstance(registry.build("embedders", "sha256", dimensions=3), Sha256)
    with pytest.raises(ArgumentError, match=r"Sha256\.dimensions must be at least 1, got 0"):
        Sha256(dimensions=0)
    with pytest.raises(ArgumentTypeError, match="one string"):
        Sha256().embed("text")


# wordllama ------------------------------------------------------------------------------------


def test_wordllama_sees_meaning() -> None:
    pytest.importorskip("wordllama")
    rows = WordLlama().embed(["a car", "an automobile", "a banana", "", " "])
    assert (rows.shape, rows.dtype) == ((5, 256), np.float32)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 0, 0], atol=1e-5)
    long = WordLlama(normalize=False).embed(["a car"])
    assert np.linalg.norm(long) > 1.5
    np.testing.assert_allclose(long[0] / np.linalg.norm(long), rows[0], atol=1e-5)
    with pytest.raises(ArgumentTypeError, match="one string"):
        WordLlama().embed("text")
