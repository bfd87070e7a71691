"""The merged matrix: ``W.npy`` and maybe ``b.npy``, alone or in a model that ends in a Dense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from coreframe.artefact import TrainedAdapter
from coreframe.errors import ArgumentError
from coreframe.export import base_folder
from coreframe.export.base_folder import Module
from coreframe.export.files import npy
from coreframe.export.target import (
    PROBES,
    Comparison,
    Floats,
    Map,
    Target,
    affine,
    one_side,
)
from coreframe.storage import write_files


@dataclass(frozen=True, kw_only=True)
class Matrix(Target):
    """y = x @ W + b as arrays; or W_base @ W, where the base's vectors are x @ W_base themselves.

    Args:
        base: a model of sentence-transformers that ends in Dense (and maybe Normalize), whose
            layer takes the adapter in; or a .npy file with W_base (d, d_in).
        side: the side whose map is taken, where the two differ.
    """

    name: ClassVar[str] = "matrix"
    normalizes: ClassVar[bool] = False
    base: Path | None = None
    side: str | None = None

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        w, b = affine(adapter, one_side(adapter, self.side, "a matrix"))
        if self.base is None:
            write_files(folder, _arrays(w, b))
            return
        first, shift = self._first(adapter)
        merged = (first.astype(np.float64) @ w).astype(np.float32)
        bias: Floats | None = None if shift is None else shift.astype(np.float64) @ w
        if b is not None:
            bias = b if bias is None else bias + b
        if Path(self.base).suffix == ".npy":
            write_files(folder, _arrays(merged, bias))
            return
        base_folder.copy(Path(self.base), folder)
        write_files(folder / self._layer().path, base_folder.dense(merged, bias))

    def _layer(self) -> Module:
        """Return the Dense layer that the base ends in."""
        assert self.base is not None
        modules = base_folder.read_modules(Path(self.base))
        last = [m for m in modules if m.kind != "Normalize"][-1:]
        if not last or last[0].kind != "Dense" or modules.index(last[0]) < len(modules) - 2:
            kinds = ", ".join(m.kind for m in modules)
            raise ArgumentError(
                f"{self.base} does not end in a Dense layer: its modules are {kinds}; use the "
                "target sentence-transformers, which appends one"
            )
        return last[0]

    def _first(self, adapter: TrainedAdapter) -> tuple[Floats, Floats | None]:
        """Return W_base and its bias, after checks that the adapter can follow them directly."""
        assert self.base is not None
        base = Path(self.base)
        if base.suffix == ".npy":
            try:
                w = np.load(base, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise ArgumentError(f"{base} cannot be read: {error}") from None
            if w.ndim != 2 or w.dtype.kind != "f":
                raise ArgumentError(
                    f"{base} must hold a matrix W_base of floating-point numbers, got "
                    f"{w.dtype} {w.shape}"
                )
            bias = None
        else:
            w, bias, config = base_folder.read_dense(base / self._layer().path)
            side = adapter.side(one_side(adapter, self.side, "a matrix"))
            activation = str(config.get("activation_function"))
            if activation.rpartition(".")[2] != "Identity":
                raise ArgumentError(
                    f"the Dense layer of {base} applies {activation} after its product, so that "
                    "no matrix can be merged into it; use the target sentence-transformers"
                )
            if config.get("use_residual"):
                raise ArgumentError(
                    f"the Dense layer of {base} adds its input, so that no matrix can be merged "
                    "into it; use the target sentence-transformers"
                )
            ends = base_folder.read_modules(base)[-1].kind
            if ends == "Normalize" and ("b" in side.arrays or not adapter.normalize):
                raise ArgumentError(
                    f"{base} divides by the length behind its Dense layer, and an adapter "
                    "with a bias, or one that keeps lengths, must come after that; use the "
                    "target sentence-transformers"
                )
        if w.shape[1] != adapter.dimensions:
            raise ArgumentError(
                f"{base} makes vectors of {w.shape[1]} numbers, and this adapter was trained on "
                f"{adapter.dimensions}: they do not belong together"
            )
        return w, bias

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        if self.base is None or Path(self.base).suffix == ".npy":
            w = np.load(folder / "W.npy", allow_pickle=False)
            bias = folder / "b.npy"
            b = np.load(bias, allow_pickle=False) if bias.exists() else None
        else:
            w, b, _ = base_folder.read_dense(folder / self._layer().path)

        def apply(x: Floats) -> Floats:
            y: Floats = x @ w if b is None else x @ w + b
            return y

        return {one_side(adapter, self.side, "a matrix"): apply}

    def divides(self, adapter: TrainedAdapter) -> bool:
        if self.base is None or Path(self.base).suffix == ".npy":
            return False
        return base_folder.read_modules(Path(self.base))[-1].kind == "Normalize"

    def compare(self, adapter: TrainedAdapter, folder: Path) -> Iterator[Comparison]:
        if self.base is None:
            yield from super().compare(adapter, folder)
            return
        w, b = self._first(adapter)
        x = np.random.default_rng(16).standard_normal((PROBES, w.shape[0])) / w.shape[0] ** 0.5
        middle = x @ w if b is None else x @ w + b
        for side, map_ in self.read(adapter, folder).items():
            got = map_(x.astype(np.float32))
            yield Comparison(side, got, adapter.side(side).apply(middle))

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        if self.base is not None and Path(self.base).suffix != ".npy":
            return [
                "from sentence_transformers import SentenceTransformer",
                'model = SentenceTransformer("FOLDER")',
            ]
        _, b = affine(adapter, one_side(adapter, self.side, "a matrix"))
        if self.base is not None:
            try:
                b = b if b is not None else self._first(adapter)[1]
            except ArgumentError:
                b = None
        shift = ' + np.load("FOLDER/b.npy")' if b is not None else ""
        lines = ["import numpy as np", f'y = x @ np.load("FOLDER/W.npy"){shift}']
        if adapter.normalize:
            lines.append("y = y / np.linalg.norm(y, axis=-1, keepdims=True)")
        return lines

    def notes(self, adapter: TrainedAdapter) -> list[str]:
        alone = self.base is None or Path(self.base).suffix == ".npy"
        if alone or not adapter.normalize or self.divides(adapter):
            return []
        return ["The model does not divide by the length, and the adapter does: do so behind it."]


def _arrays(w: Floats, b: Floats | None) -> dict[str, bytes]:
    arrays = {"W.npy": npy(w)}
    return arrays if b is None else {**arrays, "b.npy": npy(b.astype(np.float32))}
