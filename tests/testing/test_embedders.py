"""The kit for embedders: what is right passes, and what is wrong is named by the right promise."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from embedding_service import service

from coreframe import Embedder, checks
from coreframe.embedder import check_texts
from coreframe.errors import EmbedderError
from coreframe.registry import build
from coreframe.testing import check_embedder, report
from coreframe.testing.embedders.promises import KIT


def lengths(texts: list[str]) -> Any:
    return [[len(text) + 0.5, text.count("e"), 1.0] for text in texts]


def counts(texts: list[str]) -> Any:
    return [[text.count(" ") + 0.5, len(text), 2.0] for text in texts]


@dataclass(frozen=True, kw_only=True)
class Letters(Embedder):
    """Count letters.

        x[j] = how often letter j of the alphabet stands in the text

    Args:
        letters: how many letters of the alphabet. Default: 6, as a test needs no more.
        prompt: what is put before a query. Default: none.
    """

    letters: int = 6
    prompt: str = ""

    def __post_init__(self) -> None:
        checks.number(self, "letters", minimum=1, integer=True)

    def count(self, texts: Sequence[str]) -> Any:
        check_texts(texts)
        rows = [[t.count(chr(97 + j)) for j in range(self.letters)] for t in texts]
        return np.asarray(rows, np.float32).reshape(len(texts), self.letters)

    def embed(self, texts: Sequence[str]) -> Any:
        return self.count(texts)

    def embed_queries(self, texts: Sequence[str]) -> Any:
        check_texts(texts)
        return self.embed([self.prompt + text for text in texts])

    def fingerprint(self, side: Any = None) -> Mapping[str, Any] | None:
        prompt = self.prompt if side == "query" else ""
        return {"embedder": "letters", "letters": self.letters, "prompt": prompt}


@pytest.mark.parametrize(
    "embedder",
    [
        Letters(),
        Letters(prompt="find: "),
        build("embedders", "callable", function=lengths, queries=counts, identity="lengths 1"),
        build("embedders", "hashing", dimensions=16),
        build("embedders", "sha256", dimensions=40),
        build("embedders", "openai", model="m", base_url=service(), api_key_variable=None),
        build("embedders", "openai", model="m", base_url=service(), query_prompt="find: ",
              api_key_variable=None, dimensions=8, batch_size=2),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_a_right_embedder_passes(embedder: Embedder) -> None:
    found = check_embedder(embedder)
    assert all(found), report([c for c in found if not c])


def test_every_promise_is_tried() -> None:
    unsaid = {c.name for c in check_embedder(Letters(prompt="find: ")) if not c.checked}
    assert unsaid <= {"examples", "presets"}


@pytest.mark.parametrize("target", ["model2vec", "sentence_transformers"])
def test_a_missing_package_is_no_broken_promise(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setitem(sys.modules, target, None)
    found = check_embedder(build("embedders", target, model="no such model"))
    assert all(found), report([c for c in found if not c])
    (usable,) = (c for c in found if c.name == "usable")
    assert usable.detail.startswith("not checked: the embedder")
    assert "pip install" in usable.detail


# Embedders that are wrong -------------------------------------------------------------------


class TakesAnyNumber(Letters):
    def __post_init__(self) -> None:
        """Nothing is looked at."""


class Fails(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        raise EmbedderError("the model is lost")


class ReturnsFloat64(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        return super().embed(texts).astype(np.float64)


class ReturnsLists(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        return super().embed(texts).tolist()


class DividesByTheLength(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        x = super().embed(texts)
        with np.errstate(all="ignore"):
            return x / np.linalg.norm(x, axis=1, keepdims=True)


class OtherWidth(Letters):
    def embed_queries(self, texts: Sequence[str]) -> Any:
        return super().embed(texts)[:, :3]


class TakesTheMeanOff(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        x = super().embed(texts)
        return x - x.mean(axis=0) if len(x) else x


class SortsByLength(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        check_texts(texts)
        return super().embed(sorted(texts, key=len))


class NeedsOne(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        check_texts(texts)
        return np.stack([self.count([text])[0] for text in texts])


class ReadsAscii(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        check_texts(texts)
        if any("\0" in text for text in texts):
            raise ValueError("a null byte")
        return super().embed(texts)


class CutsTheBatch(Letters):
    """A long text leaves less room for the others."""

    def embed(self, texts: Sequence[str]) -> Any:
        check_texts(texts)
        room = 40_000 // max(1, *(len(text) for text in texts), 1)
        return super().embed([text[:room] for text in texts])


_KEPT: dict[Any, Any] = {}


class GivesWhatItKeeps(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        check_texts(texts)
        return _KEPT.setdefault(tuple(texts), super().embed(texts))


class StripsInPlace(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            texts[:] = [text.lower() for text in texts]
        return super().embed(texts)


class TakesAnything(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        return super().embed([str(text) for text in texts])


class HidesItsSides(Letters):
    @property
    def tells_sides(self) -> bool:
        return False


class OneFingerprint(Letters):
    def fingerprint(self, side: Any = None) -> Mapping[str, Any] | None:
        return {"letters": self.letters}


class NoPlainFingerprint(Letters):
    def fingerprint(self, side: Any = None) -> Mapping[str, Any] | None:
        return {"embedder": self}


class TuplesInTheFingerprint(Letters):
    def fingerprint(self, side: Any = None) -> Mapping[str, Any] | None:
        return {"letters": (self.letters,)}


class FingerprintOfTheObject(Letters):
    def fingerprint(self, side: Any = None) -> Mapping[str, Any] | None:
        return {"embedder": id(self)}


class NoName(Letters):
    @property
    def base_model(self) -> str:
        return ""


class LeavesAFieldOut(Letters):
    def fingerprint(self, side: Any = None) -> Mapping[str, Any] | None:
        return {"prompt": self.prompt if side == "query" else ""}


class LeavesThePromptOut(Letters):
    def fingerprint(self, side: Any = None) -> Mapping[str, Any] | None:
        return {"letters": self.letters, "asks": side == "query"}


@dataclass(frozen=True, kw_only=True)
class LeavesTheModelOut(Letters):
    """Letters, by a model of some size.

    Args:
        letters: as there. Default: 6.
        prompt: as there. Default: none.
        model: what counts. Default: a small one.
    """

    model: str = "small"


@dataclass(frozen=True, kw_only=True)
class HoldsAKey(Letters):
    """Letters, by a service that wants a key.

    Args:
        letters: as there. Default: 6.
        prompt: as there. Default: none.
        api_key: the key. Default: one of a test.
    """

    api_key: str = "sk-of-a-test"


class TellsTheKey(Letters):
    def fingerprint(self, side: Any = None) -> Mapping[str, Any] | None:
        return {**(super().fingerprint(side) or {}), "key": os.environ["SOME_API_KEY"]}


class ForgetsInTheCache(Letters):
    """Rows that follow from the number of texts too."""

    def embed(self, texts: Sequence[str]) -> Any:
        return super().embed(texts) + np.float32(len(texts) > 2)


@dataclass(frozen=True, kw_only=True)
class Connects(Letters):
    """Letters, and a greeting to a service.

    Args:
        letters: as there. Default: 6.
        prompt: as there. Default: none.
    """

    greeted: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1).close()


class Warns(Letters):
    def embed(self, texts: Sequence[str]) -> Any:
        warnings.warn("careful", stacklevel=1)
        return super().embed(texts)


@pytest.mark.parametrize(
    ("embedder", "name", "text"),
    [
        (TakesAnyNumber(), "fields_are_checked", "letters=nan is taken without a word"),
        (Fails(), "usable", "EmbedderError: the model is lost"),
        (ReturnsFloat64(), "rows", "embed returns float64 (6, 6)"),
        (ReturnsLists(), "rows", "embed returns list"),
        (DividesByTheLength(), "rows", "the row of '' is not finite"),
        (OtherWidth(), "rows", "rows are 3 and 6 numbers long"),
        (TakesTheMeanOff(), "texts_are_independent", "alone 'a blue book' has a row that differs"),
        (SortsByLength(), "texts_are_independent", "the same text twice in a batch"),
        (NeedsOne(), "no_texts", "ValueError"),
        (ReadsAscii(), "any_text", "a null byte"),
        (CutsTheBatch(), "any_text", "beside a text of"),
        (GivesWhatItKeeps(), "own_rows", "later rows change with what is written"),
        (StripsInPlace(), "inputs_are_kept", "embed changes the list of texts"),
        (TakesAnything(), "other_inputs", "is taken without a word"),
        (HidesItsSides(prompt="eee"), "sides", "tells_sides is False, but"),
        (OneFingerprint(prompt="eee"), "sides", "have one fingerprint, and rows that differ"),
        (NoPlainFingerprint(), "plain_fingerprint", "is not JSON serializable"),
        (TuplesInTheFingerprint(), "plain_fingerprint", "which JSON reads back as"),
        (FingerprintOfTheObject(), "plain_fingerprint", "of a copy is"),
        (NoName(), "plain_fingerprint", "base_model is ''"),
        (LeavesAFieldOut(), "telling_fingerprint", "letters=7 gives other rows"),
        (LeavesTheModelOut(), "telling_fingerprint", "model='small-other' is another model"),
        (
            LeavesThePromptOut(prompt="query: "),
            "telling_fingerprint",
            "prompt='query: other: ' gives other rows",
        ),
        (HoldsAKey(), "secrets", "the field api_key holds ********"),
        (TellsTheKey(), "secrets", "fingerprint(None) holds the value of the variable SOME_API"),
        (ForgetsInTheCache(), "cached", "new rows of the cache differ"),
        (Connects(), "made_offline", "it connects to"),
        (Warns(), "no_warnings", "embed: careful"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_a_wrong_embedder_is_named(
    monkeypatch: pytest.MonkeyPatch, embedder: Embedder, name: str, text: str
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret")
    found = next(p for p in KIT.promises if p.name == name).check(KIT.subject(embedder))
    assert not found, report(check_embedder(embedder))
    assert text in found.detail
    assert "sk-" not in found.detail
    assert "To fix: " in found.detail
