"""Exports without the libraries that load them: what is written, said, refused, and left behind.

``tests/integration`` loads each with the library that it is for.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from export_cases import D, make, random_side, write_model
from safetensors.numpy import load_file, save_file

import coreframe
from coreframe.artefact import Side, TrainedAdapter
from coreframe.cli.export import TARGETS as NAMES
from coreframe.errors import ArgumentError, ExportError, OutputError, UnknownName
from coreframe.export import TARGETS, export
from coreframe.export.target import probes

HERE = [t for t in TARGETS if t not in ("onnx", "faiss", "static")]
"""Targets that need no library that is not installed, and no base."""
X = np.random.default_rng(3).standard_normal((5, D)).astype(np.float32)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# Every target ---------------------------------------------------------------------------------


def test_the_command_line_has_the_targets_of_the_library() -> None:
    assert tuple(TARGETS) == NAMES


@pytest.mark.parametrize("form", ["linear", "low_rank"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["query", "alike", "identity"])
@pytest.mark.parametrize("to", HERE)
def test_every_kind_of_adapter_is_the_same_when_it_is_read_back(
    to, kind, normalize, bias, form, tmp_path
) -> None:
    given = make(kind, form=form, bias=bias, normalize=normalize)
    found = export(given, tmp_path / "out", to=to)
    assert found.facts["largest_difference"] <= 1e-5
    assert json.loads((tmp_path / "out" / "coreframe.json").read_text()) == found.facts
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("to", [t for t in HERE if t != "matrix"])
def test_two_maps(to, tmp_path) -> None:
    assert export(make("apart", bias=True), tmp_path / "out", to=to).facts["rebuild_index"]


def test_the_same_adapter_gives_the_same_files(tmp_path) -> None:
    for to in HERE:
        for name in ("one", "two"):
            export(make("alike", bias=True), tmp_path / name / to, to=to)
        for path in (tmp_path / "one" / to).rglob("*"):
            if path.is_file():
                other = tmp_path / "two" / path.relative_to(tmp_path / "one")
                assert path.read_bytes() == other.read_bytes(), path


@pytest.mark.parametrize("to", ["native", "numpy", "sentence-transformers", "langchain", "matrix"])
def test_an_output_of_another_width(to, tmp_path) -> None:
    w = random_side(to=5, bias=True)
    given = TrainedAdapter(D, {"query": w, "document": w})
    assert export(given, tmp_path / "out", to=to).facts["dimensions_out"] == 5


# What a person is told ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("query", ("queries only", "index        stays")),
        ("document", ("documents only", "index        must be rebuilt")),
        ("alike", ("queries and documents", "index        must be rebuilt")),
        ("identity", ("neither side", "index        stays")),
    ],
)
def test_what_must_be_known_is_said(kind, expected, tmp_path) -> None:
    moved = [{"what": "precision 0.9", "before": 0.812, "after": 0.54}]
    found = export(make(kind), tmp_path / "out", to="numpy", thresholds=moved)
    readme = (tmp_path / "out" / "README.md").read_text()
    for text in (found.text, readme):
        for part in (*expected, "similarity   cosine", "normalised   not by", "a base model",
                     "8 numbers in, 8 out", "precision 0.9  0.812 -> 0.540"):  # fmt: skip
            assert part in text
    assert str(tmp_path / "out") in found.text
    assert str(tmp_path) not in readme  # it may be copied elsewhere
    assert "not measured" in export(make(kind), tmp_path / "b", to="numpy").text


def test_who_normalises_is_said(tmp_path) -> None:
    def said(to: str, **rest: bool) -> str:
        return export(make("query", **rest), tmp_path / f"{to}{rest}", to=to).facts["normalised"]

    assert said("pgvector").startswith("yes")
    assert said("sentence-transformers").startswith("yes")
    assert said("llama-index").startswith("not by the files")
    assert said("numpy").startswith("not by the files")
    assert said("matrix").startswith("not by the files")
    base = write_model(tmp_path / "base", ["Transformer", "Dense", "Normalize"])
    found = export(make("alike"), tmp_path / "in", to="matrix", base=base)
    assert found.facts["normalised"].startswith("yes")
    assert said("pgvector", normalize=False).startswith("no: ")


def test_the_usage_of_numpy_runs(tmp_path) -> None:
    for kind in ("query", "apart"):
        given = make(kind, form="low_rank", bias=True)
        found = export(given, tmp_path / kind, to="numpy")
        space = {"q": X, "d": X}
        exec("\n".join(found.facts["usage"]).replace("FOLDER", str(found.folder)), space)
        np.testing.assert_allclose(space["q"], given(X), atol=1e-6)
        if kind == "apart":
            np.testing.assert_allclose(space["d"], given(X, "document"), atol=1e-6)


def test_the_usage_of_the_matrix_runs(tmp_path) -> None:
    given = make("query", bias=True)
    found = export(given, tmp_path / "out", to="matrix")
    space = {"x": X}
    exec("\n".join(found.facts["usage"]).replace("FOLDER", str(found.folder)), space)
    np.testing.assert_allclose(space["y"], given(X), atol=1e-6)


def test_the_native_export_is_an_adapter(tmp_path) -> None:
    given = make("apart", bias=True)
    given.export(tmp_path / "out", to="native")
    np.testing.assert_array_equal(coreframe.load(tmp_path / "out")(X), given(X))


# Nothing half-written -------------------------------------------------------------------------


@pytest.mark.parametrize("to", HERE)
def test_what_differs_from_the_adapter_is_not_kept(to, tmp_path, monkeypatch) -> None:
    """The classic mistake, a transposed matrix, in each target's own files."""
    given = make("query")
    turned = TrainedAdapter(
        D, {"query": Side("linear", {"W": given.side("query").arrays["W"].T.copy()})}
    )
    from coreframe.export import targets

    kind = type(targets.build(to, {}))
    write = kind.write
    monkeypatch.setattr(kind, "write", lambda self, adapter, folder: write(self, turned, folder))
    with pytest.raises(ExportError, match=r"differs from the adapter: query by .* 1e-05 is a"):
        export(given, tmp_path / "out", to=to)
    assert names(tmp_path) == []


def test_an_export_that_fails_leaves_the_one_that_was_there(tmp_path, monkeypatch) -> None:
    export(make("query"), tmp_path / "out", to="numpy")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def fails(*args: object) -> None:
        raise OSError(28, "No space left on device")

    for call in ("fsync", "replace", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fails)
            with pytest.raises(OutputError, match="No space left"):
                export(make("alike"), tmp_path / "out", to="numpy", overwrite=True)
        assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
        assert names(tmp_path) == ["out"]
    export(make("alike"), tmp_path / "out", to="matrix", overwrite=True)
    assert "adapter.npz" not in names(tmp_path / "out")  # replaced, not mixed
    assert names(tmp_path) == ["out"]


def test_a_folder_with_files_is_left_alone(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"is not empty; use overwrite \(--overwrite\)"):
        export(make("query"), tmp_path, to="numpy")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        export(make("query"), tmp_path / "notes.txt", to="numpy", overwrite=True)
    assert names(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"to": "onxn"}, UnknownName, "no export target 'onxn'"),
        ({"to": "numpy", "base": "x"}, ArgumentError, "'numpy' has no option 'base'; it has none"),
        ({"to": "pgvector", "table": "x; drop"}, ArgumentError, "table must be a name of letters"),
        ({"to": "pgvector", "function": 'a"b'}, ArgumentError, "function must be a name"),
        ({"to": "static"}, ArgumentError, "needs --base"),
        ({"to": "sentence-transformers", "base": "nothing"}, ArgumentError, "modules.json is miss"),
        ({"to": "matrix", "side": "both"}, ArgumentError, "side must be 'query' or 'document'"),
    ],
)
def test_bad_options(options, error, text, tmp_path) -> None:
    with pytest.raises(error, match=re.escape(text)):
        export(make("query"), tmp_path / "out", **options)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("to", "kind", "text"),
    [
        ("llama-index", "document", "adapts queries only, and this adapter moves documents only"),
        ("matrix", "apart", "holds one map, and this adapter has two"),
    ],
)
def test_what_a_form_cannot_hold(to, kind, text, tmp_path) -> None:
    with pytest.raises(ArgumentError, match=text):
        export(make(kind), tmp_path / "out", to=to)
    assert names(tmp_path) == []


def test_llama_index_takes_no_other_width(tmp_path) -> None:
    given = TrainedAdapter(D, {"query": random_side(to=5), "document": random_side(to=5)})
    with pytest.raises(ArgumentError, match="cannot hold a map from 8 to 5 numbers"):
        export(given, tmp_path / "out", to="llama-index")


# Files by their rules -------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_the_bin_file_is_what_a_restricted_unpickler_reads(bias, tmp_path) -> None:
    """An independent reader: pickle's machine with the three names that torch allows."""
    given = make("query", bias=bias)
    export(given, tmp_path / "out", to="llama-index")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"in_features": D, "out_features": D, "bias": bias}
    archive = zipfile.ZipFile(io.BytesIO((tmp_path / "out" / "pytorch_model.bin").read_bytes()))
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            return {
                ("collections", "OrderedDict"): dict,
                ("torch._utils", "_rebuild_tensor_v2"): rebuild,
                ("torch", "FloatStorage"): "float",
            }[module, name]

        def persistent_load(self, found: tuple[object, ...]) -> np.ndarray:
            word, kind, key, place, size = found
            assert (word, kind, place) == ("storage", "float", "cpu")
            numbers = np.frombuffer(archive.read(f"archive/data/{key}"), "<f4")
            assert len(numbers) == size
            return numbers

    def rebuild(storage, offset, shape, strides, grad, hooks):
        assert (grad, hooks) == (False, {})
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, [4 * s for s in strides])

    tensors = Reader(io.BytesIO(archive.read("archive/data.pkl"))).load()
    w, b = given.side("query").matrix(D)
    np.testing.assert_allclose(tensors["linear.weight"], w.T, atol=1e-7)
    assert sorted(tensors) == ["linear.bias", "linear.weight"][not bias :]
    if bias:
        np.testing.assert_allclose(tensors["linear.bias"], b, atol=1e-7)


def test_a_dense_layer_has_exactly_the_keys_that_old_releases_take(tmp_path) -> None:
    given = make("alike", bias=True)
    export(given, tmp_path / "out", to="sentence-transformers")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {
        "in_features": D,
        "out_features": D,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    w, _ = given.side("query").matrix(D)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(tensors["linear.weight"], w.T, atol=1e-7)


@pytest.mark.parametrize(
    ("kinds", "bias", "normalize", "expected"),
    [
        (["Transformer", "Pooling", "Normalize"], False, True, "T P Dense Normalize"),
        (["Transformer", "Pooling", "Normalize"], True, True, "T P Normalize Dense Normalize"),
        (["Transformer", "Pooling", "Normalize"], False, False, "T P Normalize Dense"),
        (["Transformer", "Pooling"], False, True, "T P Dense Normalize"),
        (["Transformer", "Pooling"], True, False, "T P Dense"),
    ],
)
def test_where_the_layer_stands(kinds, bias, normalize, expected, tmp_path) -> None:
    base = write_model(tmp_path / "base", kinds)
    given = make("alike", bias=bias, normalize=normalize, similarity="dot")
    export(given, tmp_path / "out", to="sentence-transformers", base=base)
    entries = json.loads((tmp_path / "out" / "modules.json").read_text())
    found = " ".join(e["type"].rpartition(".")[2] for e in entries)
    assert found == expected.replace("T P", "Transformer Pooling")
    assert [e["idx"] for e in entries] == list(range(len(entries)))
    assert len({e["path"] for e in entries}) == len(entries)
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert settings["similarity_fn_name"] == "dot"
    readme = (tmp_path / "out" / "README.md").read_text()
    assert readme.startswith("---\nlicense: mit\n---\n# The base\n")
    assert "A coreframe adapter" in readme


def test_queries_alone_get_a_route_of_their_own(tmp_path) -> None:
    base = write_model(tmp_path / "base", ["Transformer", "Pooling", "Normalize"])
    export(make("query"), tmp_path / "out", to="sentence-transformers", base=base)
    entries = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert entries[-1]["type"] == "sentence_transformers.models.Router"
    router = tmp_path / "out" / entries[-1]["path"]
    config = json.loads((router / "router_config.json").read_text())
    assert config["structure"] == {
        "query": ["query_0_Dense", "query_1_Normalize"],
        "document": ["document_0_Normalize"],
    }
    assert config["parameters"]["default_route"] == "document"


@pytest.mark.parametrize("to", ["sentence-transformers", "matrix"])
def test_a_base_of_another_width(to, tmp_path) -> None:
    kinds = ["Transformer", "Pooling", *(["Dense"] if to == "matrix" else [])]
    base = write_model(tmp_path / "base", kinds, width=12)
    with pytest.raises(ArgumentError, match="makes vectors of 12 numbers, and this adapter"):
        export(make("alike"), tmp_path / "out", to=to, base=base)
    assert names(tmp_path) == ["base"]


def test_an_sql_file_is_one_transaction_and_names_are_options(tmp_path) -> None:
    given = make("apart", bias=True, base_model="it's\none")
    export(given, tmp_path / "out", to="pgvector", table="s.weights", function="s.adapt")
    text = (tmp_path / "out" / "adapter.sql").read_text()
    assert text.index("begin;") < text.index("create table") < text.rindex("commit;")
    for name in ('"s"."weights_query"', '"s"."weights_document"', '"s"."adapt_query"(q vector)'):
        assert name in text
    assert "base model it''s one'" in text


# Merging --------------------------------------------------------------------------------------


def test_a_matrix_goes_into_the_dense_layer_that_a_model_ends_in(tmp_path) -> None:
    base = write_model(tmp_path / "base", ["Transformer", "Pooling", "Dense", "Normalize"])
    given = make("alike")
    export(given, tmp_path / "out", to="matrix", base=base)
    before, after = (load_file(f / "2_Dense" / "model.safetensors") for f in
                     (base, tmp_path / "out"))  # fmt: skip
    want = given(X @ before["linear.weight"].T + before["linear.bias"])
    got = X @ after["linear.weight"].T + after["linear.bias"]
    np.testing.assert_allclose(got / np.linalg.norm(got, axis=1, keepdims=True), want, atol=1e-5)
    assert names(tmp_path / "out") == sorted([*names(base), "coreframe.json"])


def test_a_matrix_after_a_matrix(tmp_path) -> None:
    first = np.random.default_rng(0).standard_normal((20, D)).astype(np.float32)
    np.save(tmp_path / "first.npy", first)
    given = make("query", bias=True)
    found = export(given, tmp_path / "out", to="matrix", base=tmp_path / "first.npy")
    x = np.random.default_rng(1).standard_normal((4, 20))
    space = {"x": x}
    exec("\n".join(found.facts["usage"]).replace("FOLDER", str(found.folder)), space)
    np.testing.assert_allclose(space["y"], given(x @ first), atol=1e-5)


@pytest.mark.parametrize(
    ("kinds", "bias", "change", "text"),
    [
        (["Transformer", "Pooling"], False, {}, "does not end in a Dense layer"),
        (["Transformer", "Dense", "Normalize"], True, {}, "an adapter with a bias"),
        (["Transformer", "Dense"], False, {"activation_function": "torch.nn.Tanh"}, "Tanh"),
        (["Transformer", "Dense"], False, {"use_residual": True}, "adds its input"),
    ],
)
def test_where_nothing_can_be_merged(kinds, bias, change, text, tmp_path) -> None:
    base = write_model(tmp_path / "base", kinds)
    for path in base.glob("*_Dense/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArgumentError, match=text):
        export(make("alike", bias=bias), tmp_path / "out", to="matrix", base=base)


@pytest.mark.parametrize("layout", ["file", "npy", "sentence-transformers", "model2vec"])
def test_a_token_table_takes_the_adapter_in(layout, tmp_path) -> None:
    table = np.random.default_rng(6).standard_normal((50, D)).astype(np.float16)
    base = tmp_path / "base"
    if layout == "sentence-transformers":
        write_model(base, ["StaticEmbedding"])
        inside = "0_StaticEmbedding/model.safetensors"
        save_file({"embedding.weight": table}, base / inside)
    elif layout == "model2vec":
        base.mkdir()
        inside = "model.safetensors"
        weights = np.ones(50, np.float64)
        save_file({"embeddings": table, "weights": weights}, base / inside, {"kept": "yes"})
        (base / "config.json").write_text(json.dumps({"normalize": False, "hidden_dim": D}))
    else:
        base = tmp_path / ("table.npy" if layout == "npy" else "table.safetensors")
        inside = base.name
        if layout == "npy":
            np.save(base, table)
        else:
            save_file({"embedding.weight": table}, base)
    given = make("query", form="low_rank")
    export(given, tmp_path / "out", to="static", base=base)
    found = tmp_path / "out" / inside
    folded = np.load(found) if layout == "npy" else next(
        x for name, x in load_file(found).items() if name.startswith("embedding")
    )  # fmt: skip
    assert folded.dtype == np.float32
    text = folded[[3, 7, 7, 11]].mean(axis=0)
    want = given(table[[3, 7, 7, 11]].astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(text / np.linalg.norm(text), want, atol=1e-5)
    if layout == "model2vec":
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config == {"normalize": True, "hidden_dim": D}
        assert "weights" in load_file(found)
    if layout == "sentence-transformers":
        entries = json.loads((tmp_path / "out" / "modules.json").read_text())
        assert [e["type"].rpartition(".")[2] for e in entries] == ["StaticEmbedding", "Normalize"]


def test_a_table_takes_no_bias_and_only_its_own_width(tmp_path) -> None:
    np.save(tmp_path / "table.npy", np.ones((3, D), np.float32))
    with pytest.raises(ArgumentError, match=r"the query side has a bias, .* train\.start=identity"):
        export(make("query", bias=True), tmp_path / "o", to="static", base=tmp_path / "table.npy")
    np.save(tmp_path / "table.npy", np.ones((3, 5), np.float32))
    with pytest.raises(ArgumentError, match="holds vectors of 5 numbers"):
        export(make("query"), tmp_path / "o", to="static", base=tmp_path / "table.npy")
    base = write_model(tmp_path / "base", ["Transformer", "Pooling"])
    with pytest.raises(ArgumentError, match="is no static model: its modules are Transformer"):
        export(make("query"), tmp_path / "o", to="static", base=base)
    np.save(tmp_path / "table.npy", np.ones((3, D), np.int8))
    with pytest.raises(ArgumentError, match="no token table of floating-point numbers"):
        export(make("query"), tmp_path / "o", to="static", base=tmp_path / "table.npy")


def test_probes_are_unit_vectors_and_always_the_same() -> None:
    np.testing.assert_array_equal(probes(6), probes(6))
    np.testing.assert_allclose(np.linalg.norm(probes(6), axis=1), 1)


# The page -------------------------------------------------------------------------------------


def test_the_lines_of_the_page_are_those_that_are_printed(tmp_path) -> None:
    """docs/export.md has, for each target, lines that ``usage`` prints for some adapter."""
    from coreframe.export.targets import build

    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    base = write_model(tmp_path / "base", ["Transformer", "Pooling", "Normalize"])
    printed = set()
    for to in (t for t in TARGETS if t != "static"):
        for kind in ("query", "alike"):
            given = make(kind, form="low_rank", base_model=None)
            for options in ({}, *([{"base": base}] if to == "sentence-transformers" else [])):
                printed |= set(build(to, options).usage(given))
    blocks = re.findall(r"^```(?:py|text)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown = [line for block in blocks for line in block.splitlines() if line]
    assert len(shown) > 25
    assert [line for line in shown if line not in printed] == []
    assert [to for to in TARGETS if f"| `{to}` |" not in page] == []
