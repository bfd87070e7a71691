"""What the files that we write for LangChain and Chroma share: the adapter in plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coreframe.artefact import SIDES, TrainedAdapter
from coreframe.export.files import npz
from coreframe.export.target import Floats, Map
from coreframe.storage import write_files

MARK = "# ---- what follows needs the library that it is for ----\n"

ADAPTER = '''\
from pathlib import Path

import numpy as np


class Adapter:
    """The maps of an adapter.npz: queries and documents, (n, d) in, (n, d_out) out."""

    def __init__(self, path):
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files}

    def __call__(self, vectors, side):
        x, a = np.asarray(vectors, dtype=np.float32), self.arrays
        if x.ndim != 2 or x.shape[1] != int(a["dimensions"]):
            raise ValueError(
                f"the adapter takes vectors of {int(a['dimensions'])} numbers, got {x.shape}"
            )
        if f"{side}.W" in a:
            x = x @ a[f"{side}.W"]
        elif f"{side}.A" in a:
            x = x + a[f"{side}.scaling"] * ((x @ a[f"{side}.A"]) @ a[f"{side}.B"])
        if f"{side}.b" in a:
            x = x + a[f"{side}.b"]
        if a["normalize"]:
            length = np.linalg.norm(x, axis=1, keepdims=True)
            x = x / np.where(length == 0, 1, length)
        return x


'''


def write_module(
    adapter: TrainedAdapter, folder: Path, name: str, docstring: str, rest: str
) -> None:
    """Write ``adapter.npz`` and a module that applies it."""
    source = f'"""{docstring}"""\n\n{ADAPTER}{MARK}{rest}'
    write_files(folder, {"adapter.npz": npz(adapter), name: source.encode()})


def read_module(folder: Path, name: str) -> Mapping[str, Map]:
    """Run the part of a module that needs NumPy alone; return its map of each side."""
    source = (folder / name).read_text(encoding="utf-8")
    compile(source, name, "exec")
    names: dict[str, Any] = {}
    exec(compile(source.partition(MARK)[0], name, "exec"), names)
    stored = names["Adapter"](folder / "adapter.npz")

    def map_of(side: str) -> Map:
        def apply(x: Floats) -> Floats:
            y: Floats = stored(x, side)
            return y

        return apply

    return {side: map_of(side) for side in SIDES}
