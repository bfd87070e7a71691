"""Models in the folders of sentence-transformers: their list of modules, and Dense layers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.errors import ArgumentError
from coreframe.export.target import Floats, unit
from coreframe.storage import write_files

# The names of the classes that every release loads; newer ones know them as aliases.
DENSE = "sentence_transformers.models.Dense"
NORMALIZE = "sentence_transformers.models.Normalize"
ROUTER = "sentence_transformers.models.Router"
IDENTITY = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True)
class Module:
    """One entry of ``modules.json``: its folder under the model's, and its class."""

    path: str
    type: str

    @property
    def kind(self) -> str:
        return self.type.rpartition(".")[2]


def read_modules(base: Path) -> list[Module]:
    """Return the modules of a model, in their order. Raises ArgumentError for another folder."""
    try:
        entries = json.loads((base / "modules.json").read_text(encoding="utf-8"))
        modules = [Module(entry["path"], entry["type"]) for entry in entries]
    except FileNotFoundError:
        raise ArgumentError(
            f"{base} is no folder of sentence-transformers: modules.json is missing; write one "
            f"with SentenceTransformer(NAME).save(FOLDER)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"{base / 'modules.json'} cannot be read: {error}") from None
    if not modules:
        raise ArgumentError(f"{base / 'modules.json'} lists no module")
    return modules


def write_modules(folder: Path, modules: Sequence[Module]) -> None:
    entries = [
        {"idx": i, "name": str(i), "path": m.path, "type": m.type} for i, m in enumerate(modules)
    ]
    write_files(folder, {"modules.json": (json.dumps(entries, indent=2) + "\n").encode()})


def copy(base: Path, folder: Path) -> None:
    """Copy a model into a folder that exists, without what version control and caches leave."""
    left_out = shutil.ignore_patterns(".git", ".cache", "__pycache__")
    shutil.copytree(base, folder, dirs_exist_ok=True, ignore=left_out)


def width(base: Path, modules: Sequence[Module]) -> int | None:
    """Return how wide a model's vectors are, or None if its files do not say."""
    for module in reversed(modules):
        if module.kind == "Normalize":
            continue
        config = read_json(base / module.path / "config.json")
        if module.kind == "Dense":
            return _whole(config.get("out_features"))
        if module.kind == "Pooling":
            one = config.get("word_embedding_dimension", config.get("embedding_dimension"))
            modes = [k for k, v in config.items() if k.startswith("pooling_mode_") and v is True]
            found = _whole(one)
            return None if found is None else found * max(1, len(modes))
        if module.kind == "StaticEmbedding":
            from coreframe.export.static import read_table

            return int(read_table(base / module.path / "model.safetensors")[1].shape[1])
        return None
    return None


def check_width(base: Path, modules: Sequence[Module], dimensions: int) -> None:
    """Raise ArgumentError if a model is known to make vectors of another width."""
    found = width(base, modules)
    if found not in (None, dimensions):
        raise ArgumentError(
            f"{base} makes vectors of {found} numbers, and this adapter was trained on "
            f"{dimensions}: they do not belong together"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, or an empty one if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


# Layers ---------------------------------------------------------------------------------------


def dense(w: Floats, b: Floats | None) -> dict[str, bytes]:
    """Return the files of a Dense layer for y = x @ w + b, w (d_in, d_out).

    Its keys are the four that every release takes; the tensor is the transpose of w.
    """
    from safetensors.numpy import save

    config = {
        "in_features": w.shape[0],
        "out_features": w.shape[1],
        "bias": b is not None,
        "activation_function": IDENTITY,
    }
    tensors = {"linear.weight": np.ascontiguousarray(w.T, np.float32)}
    if b is not None:
        tensors["linear.bias"] = np.ascontiguousarray(b, np.float32)
    return {
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "model.safetensors": save(tensors, {"format": "pt"}),
    }


def read_dense(folder: Path) -> tuple[Floats, Floats | None, Mapping[str, Any]]:
    """Return w (d_in, d_out), b or None, and the configuration of a Dense layer."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config = read_json(folder / "config.json")
    try:
        tensors = load_file(folder / "model.safetensors")
        w = tensors["linear.weight"].T
        return w, tensors["linear.bias"] if config["bias"] else None, config
    except (OSError, KeyError, SafetensorError) as error:
        raise ArgumentError(
            f"{folder} holds no Dense layer that can be read (config.json and "
            f"model.safetensors): {error}"
        ) from None


def run(folder: Path, modules: Sequence[Module], x: Floats) -> Floats:
    """Return what a chain of Dense and Normalize layers makes of rows."""
    for module in modules:
        if module.kind == "Normalize":
            x = unit(x)
        else:
            w, b, _ = read_dense(folder / module.path)
            x = x @ w if b is None else x @ w + b
    return x
