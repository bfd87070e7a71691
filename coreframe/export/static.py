"""A static model with the adapter inside: its token table E becomes E @ W.

A static model's vector is a mean of rows of its table, and a mean of E @ W is the mean of E times
W. So folding is exact and costs nothing at run time, unless the adapter has a bias.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from coreframe.artefact import TrainedAdapter
from coreframe.errors import ArgumentError
from coreframe.export import base_folder
from coreframe.export.base_folder import NORMALIZE, Module
from coreframe.export.files import npy
from coreframe.export.target import PROBES, Comparison, Floats, Target, affine, one_side, unit
from coreframe.storage import write_files

KEYS = ("embedding.weight", "embeddings")


@dataclass(frozen=True, kw_only=True)
class Static(Target):
    """A copy of a static model, with the adapter in its table.

    Args:
        base: folder of model2vec or of sentence-transformers' StaticEmbedding, or a file with
            the table: .safetensors (``embedding.weight`` or ``embeddings``) or .npy.
        side: the side whose map is folded in, where the two differ.
    """

    name: ClassVar[str] = "static"
    base: Path | None = None
    side: str | None = None

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        path = self._table()
        side = one_side(adapter, self.side, "a static model")
        if "b" in adapter.side(side).arrays:
            raise ArgumentError(
                f"the {side} side has a bias, which cannot be folded into a token table: it would "
                "be added once a token's weight and not once a text; train with bias = false "
                "and from a start without one (whitening has one: --set train.start=identity), "
                "or export to another target"
            )
        key, table = read_table(path)
        if table.shape[1] != adapter.dimensions:
            raise ArgumentError(
                f"{path} holds vectors of {table.shape[1]} numbers, and this adapter was trained "
                f"on {adapter.dimensions}: they do not belong together"
            )
        w, _ = affine(adapter, side)
        folded = (table.astype(np.float64) @ w).astype(np.float32)
        base = self._base()
        if base.is_dir():
            base_folder.copy(base, folder)
            _set_normalize(folder, base, adapter, folded.shape[1])
        if path.suffix == ".npy":
            write_files(folder, {path.name: npy(folded)})
            return
        from safetensors import safe_open
        from safetensors.numpy import load_file, save

        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
        content = save({**load_file(path), key: folded}, metadata)
        target = folder / path.relative_to(base) if base.is_dir() else folder / path.name
        write_files(target.parent, {target.name: content})

    def _base(self) -> Path:
        if self.base is None:
            raise ArgumentError(
                "the target 'static' needs --base: a folder of model2vec or of a StaticEmbedding, "
                "or a file with the token table"
            )
        return Path(self.base)

    def _table(self) -> Path:
        """Return the file that holds the table."""
        base = self._base()
        if not base.is_dir():
            return base
        if (base / "modules.json").exists():
            first, *rest = base_folder.read_modules(base)
            if first.kind != "StaticEmbedding" or {m.kind for m in rest} - {"Normalize"}:
                kinds = ", ".join(m.kind for m in (first, *rest))
                raise ArgumentError(
                    f"{base} is no static model: its modules are {kinds}, where StaticEmbedding "
                    "and maybe Normalize are expected; see the target sentence-transformers"
                )
            return base / first.path / "model.safetensors"
        return base / "model.safetensors"

    def divides(self, adapter: TrainedAdapter) -> bool:
        return self._base().is_dir()

    def compare(self, adapter: TrainedAdapter, folder: Path) -> Iterator[Comparison]:
        """Yield the vectors of 16 texts of five random tokens."""
        path, base = self._table(), self._base()
        _, before = read_table(path)
        inside = folder / path.relative_to(base) if base.is_dir() else folder / path.name
        _, after = read_table(inside)
        side = one_side(adapter, self.side, "a static model")
        texts = np.random.default_rng(16).integers(0, len(before), (PROBES, 5))
        means = before[texts].astype(np.float64).mean(axis=1)
        got: Floats = after[texts].mean(axis=1)
        yield Comparison(
            f"{side} texts", unit(got) if adapter.normalize else got, adapter(means, side)
        )

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        side = one_side(adapter, self.side, "a static model")
        whom = {"query": "queries", "document": "documents"}[side]
        if adapter.rebuilds_index and self.side is None:
            whom = "queries and documents"
        base = self._base()
        if base.is_dir() and (base / "modules.json").exists():
            lines = ["from sentence_transformers import SentenceTransformer"]
            lines.append('model = SentenceTransformer("FOLDER")')
        elif base.is_dir():
            lines = ["from model2vec import StaticModel"]
            lines.append('model = StaticModel.from_pretrained("FOLDER")')
        else:
            return [f"# {base.name} holds the token table, for the model that encodes {whom}"]
        return [*lines, f"vectors = model.encode(texts)  # of {whom}"]

    def notes(self, adapter: TrainedAdapter) -> list[str]:
        notes = []
        if not adapter.rebuilds_index:
            notes.append("This model encodes queries; documents are still encoded by the base.")
        if not self._base().is_dir() and adapter.normalize:
            notes.append("Divide the mean of the tokens' rows by its length.")
        return notes


def read_table(path: Path) -> tuple[str, Any]:
    """Return the name of a token table in a file and the table (tokens, width)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".npy":
            found = {"": np.load(path, allow_pickle=False)}
        else:
            found = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArgumentError(f"the token table {path} cannot be read: {error}") from None
    matrices = [name for name, x in found.items() if x.ndim == 2]
    named = [name for name in KEYS if name in matrices] or (matrices if len(matrices) == 1 else [])
    if not named or found[named[0]].dtype.kind != "f":
        kinds = ", ".join(f"{name} {x.dtype} {x.shape}" for name, x in found.items())
        raise ArgumentError(
            f"{path} has no token table of floating-point numbers called "
            f"{' or '.join(map(repr, KEYS))}; it holds {kinds or 'nothing'}"
        )
    return named[0], found[named[0]]


def _set_normalize(folder: Path, base: Path, adapter: TrainedAdapter, width: int) -> None:
    """Make the model divide by the length where the adapter does, and only there."""
    both = (base / "modules.json").exists(), (base / "config.json").exists()
    config = base_folder.read_json(base / "config.json") if both[1] else {}
    modules = base_folder.read_modules(base) if both[0] else []
    does = modules[-1].kind == "Normalize" if modules else bool(config.get("normalize"))
    if does and not adapter.normalize:
        raise ArgumentError(
            f"{base} divides vectors by their lengths before the adapter, which does not do so "
            "itself: that cannot be folded into the table"
        )
    if modules and adapter.normalize and not does:
        base_folder.write_modules(
            folder, [*modules, Module(f"{len(modules)}_Normalize", NORMALIZE)]
        )
    if "normalize" in config or (config and not modules):
        config["normalize"] = adapter.normalize
        if "hidden_dim" in config:
            config["hidden_dim"] = width
        if "embedding_dtype" in config:
            config["embedding_dtype"] = "float32"
        write_files(folder, {"config.json": (json.dumps(config, indent=4) + "\n").encode()})
