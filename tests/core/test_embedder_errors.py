"""An embedder that fails is named, with the first text, wherever texts become vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe import Embedder, Pairs, config, load_pairs
from coreframe.cli import FAILED, run
from coreframe.data.disk_cache import DiskCache, DiskCached
from coreframe.errors import ArgumentTypeError, EmbedderError
from coreframe_text.hashing import Hashing

QUERIES, DOCUMENTS = ["red", "green", "blue"], ["rouge", "vert", "bleu"]


@dataclass(frozen=True, kw_only=True)
class Odd(Embedder):
    """What it does with the word ``green`` or ``vert``, its name says."""

    does: str = "raises"

    def embed(self, texts: Sequence[str]) -> Any:
        x = np.ones((len(texts), 3), np.float32)
        for i, text in enumerate(texts):
            if text not in ("green", "vert"):
                continue
            if self.does == "raises":
                raise KeyError(text)
            if self.does == "refuses":
                raise ArgumentTypeError("no such word")
            if self.does == "loses":
                return x[1:]
            x[i, 1] = np.nan if self.does == "nan" else np.inf
        return x

    def fingerprint(self, side: Any = None) -> Any:
        return {"does": self.does}


@pytest.mark.parametrize(
    ("does", "text"),
    [
        (
            "raises",
            "the embedder Odd failed on 3 texts, the first 'red': KeyError: 'green'",
        ),
        (
            "nan",
            "Odd gave nan in the row of 'green', text 1 of 3 (rows that are not finite: 1)",
        ),
        ("inf", "the embedder Odd gave inf in the row of 'green'"),
        ("loses", "must give one row of floating-point numbers a text, (3, d), got float32 (2, 3)"),
    ],
)
def test_pairs_of_texts_name_the_embedder_and_the_text(does: str, text: str) -> None:
    with pytest.raises(EmbedderError) as caught:
        Pairs.from_texts(QUERIES, DOCUMENTS, Odd(does=does))
    assert text in str(caught.value)


def test_an_error_of_ours_stays_as_it_is() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^no such word$"):
        Pairs.from_texts(QUERIES, DOCUMENTS, Odd(does="refuses"))


def test_the_cause_is_kept_and_the_cache_hides_no_name(tmp_path: Path) -> None:
    cached = DiskCached(embedder=Odd(), cache=DiskCache(tmp_path))
    with pytest.raises(EmbedderError, match="the embedder Odd failed on 3 texts") as caught:
        Pairs.from_texts(QUERIES, DOCUMENTS, cached)
    assert isinstance(caught.value.__cause__, KeyError)
    cached = DiskCached(embedder=Odd(does="nan"), cache=DiskCache(tmp_path))
    with pytest.raises(EmbedderError, match="the embedder Odd gave nan in the row of 'green'"):
        Pairs.from_texts(QUERIES, DOCUMENTS, cached)


def test_a_long_text_is_cut() -> None:
    with pytest.raises(EmbedderError) as caught:
        Pairs.from_texts(["word " * 99, "green"], ["rouge", "vert"], Odd())
    assert "the first 'word word" in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("does", ["raises", "nan"])
def test_data_of_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str) -> None:
    monkeypatch.setenv("COREFRAME_CACHE_DIR", str(tmp_path))
    settings = replace(config.default(), embedder=Odd(does=does))
    for rows in (
        {"query": QUERIES, "answer": DOCUMENTS},
        {"text": [*QUERIES, *DOCUMENTS], "label": [0, 1, 2, 0, 1, 2]},
    ):
        with pytest.raises(EmbedderError, match=r"the embedder Odd .*'green'"):
            load_pairs(rows, config=settings)


def test_the_command_line_says_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COREFRAME_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(Hashing, "embed", lambda self, texts: Odd().embed(texts))
    rows = [{"query": q, "answer": d} for q, d in zip(QUERIES, DOCUMENTS, strict=True)]
    data, settings = tmp_path / "pairs.jsonl", tmp_path / "run.toml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings.write_text('[embedder]\nname = "hashing"\n', encoding="utf-8")
    out = str(tmp_path / "out")
    code = run(["train", str(data), "--config", str(settings), "--out", out])
    told = capsys.readouterr().err
    assert code == FAILED
    assert "the embedder Hashing failed on 3 texts, the first 'red': KeyError" in told
    assert "Traceback" not in told
