"""One ``adapter.npz``, and a line of NumPy that applies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coreframe.artefact import TrainedAdapter
from coreframe.export.files import npz, read_npz
from coreframe.export.target import Map, Target, adapted_sides
from coreframe.storage import write_files


@dataclass(frozen=True, kw_only=True)
class NumPy(Target):
    """``adapter.npz``: see ``coreframe.export.files.npz`` for its arrays."""

    name: ClassVar[str] = "numpy"

    def divides(self, adapter: TrainedAdapter) -> bool:
        return False

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        write_files(folder, {"adapter.npz": npz(adapter)})

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        return read_npz((folder / "adapter.npz").read_bytes())

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        lines = ["import numpy as np", 't = np.load("FOLDER/adapter.npz")']
        for name in adapted_sides(adapter):
            side, x = adapter.side(name), {"query": "q", "document": "d"}[name]
            bias = f' + t["{name}.b"]' if "b" in side.arrays else ""
            if side.form == "linear":
                lines.append(f'{x} = {x} @ t["{name}.W"]{bias}')
            elif side.form == "low_rank":
                thin = f'({x} @ t["{name}.A"]) @ t["{name}.B"]'
                lines.append(f'{x} = {x} + t["{name}.scaling"] * {thin}{bias}')
            else:
                lines.append(f"{x} = {x}{bias}")
            if adapter.normalize:
                lines.append(f"{x} = {x} / np.linalg.norm({x}, axis=-1, keepdims=True)")
        return lines
