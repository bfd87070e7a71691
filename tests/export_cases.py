"""Adapters of every kind, and the smallest models that they go into."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from coreframe.artefact import Side, TrainedAdapter

D = 8


def random_side(form: str = "linear", *, bias: bool = False, seed: int = 0, to: int = D) -> Side:
    rng = np.random.default_rng(seed)
    shapes = {"linear": {"W": (D, to)}, "low_rank": {"A": (D, 2), "B": (2, D)}, "identity": {}}
    shapes = shapes[form] | ({"b": (to,)} if bias else {})
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    return Side(form, arrays, 0.5 if form == "low_rank" else 1.0)


def make(kind: str, *, form: str = "linear", bias: bool = False, **rest: object) -> TrainedAdapter:
    """Return an adapter that moves queries, documents, both alike, both apart, or nothing."""
    one, other = random_side(form, bias=bias), random_side("linear", seed=1)
    sides = {
        "query": {"query": one},
        "document": {"document": one},
        "alike": {"query": one, "document": random_side(form, bias=bias)},
        "apart": {"query": one, "document": other},
        "identity": {},
    }[kind]
    return TrainedAdapter(D, sides, **{"base_model": "a base model", **rest})


def write_model(folder: Path, kinds: list[str], *, width: int = D) -> Path:
    """Write a folder of sentence-transformers: what it lists, not what it would need to run."""
    folder.mkdir()
    entries = []
    for i, kind in enumerate(kinds):
        path = "" if kind == "Transformer" else f"{i}_{kind}"
        entries.append({"idx": i, "name": str(i), "path": path,
                        "type": f"sentence_transformers.models.{kind}"})  # fmt: skip
        (folder / path).mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(entries))
    for path in folder.glob("*_Pooling"):
        config = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
        (path / "config.json").write_text(json.dumps(config))
    for path in folder.glob("*_Dense"):
        config = {"in_features": width, "out_features": width, "bias": True,
                  "activation_function": "torch.nn.modules.linear.Identity"}  # fmt: skip
        (path / "config.json").write_text(json.dumps(config))
        rng = np.random.default_rng(5)
        tensors = {"linear.weight": rng.standard_normal((width, width)).astype(np.float32),
                   "linear.bias": rng.standard_normal(width).astype(np.float32)}  # fmt: skip
        save_file(tensors, path / "model.safetensors")
    for path in folder.glob("*_StaticEmbedding"):
        table = np.random.default_rng(6).standard_normal((50, width)).astype(np.float32)
        save_file({"embedding.weight": table}, path / "model.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# The base\n")
    return folder
