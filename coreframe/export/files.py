"""Bytes that several targets write: zip archives and .npz files that are the same every time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from coreframe.artefact import SIDES, TrainedAdapter
from coreframe.export.target import Floats, Map, unit


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return an archive without compression; equal members give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def npy(x: Any) -> bytes:
    """Return an array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(x, order="C"), allow_pickle=False)
    return buffer.getvalue()


def npz(adapter: TrainedAdapter) -> bytes:
    """Return an adapter as the content of a .npz file.

    Of each side that is moved it holds ``<side>.W``, or ``<side>.A``, ``<side>.B`` and
    ``<side>.scaling``, and maybe ``<side>.b``; and ``dimensions`` and ``normalize``.
    """
    members: dict[str, Any] = {
        "dimensions": np.int64(adapter.dimensions),
        "normalize": np.bool_(adapter.normalize),
    }
    for name in SIDES:
        side = adapter.side(name)
        members |= {f"{name}.{key}": np.asarray(x, np.float32) for key, x in side.arrays.items()}
        if side.form == "low_rank":
            members[f"{name}.scaling"] = np.float32(side.scaling)
    return zipped({f"{name}.npy": npy(np.asarray(x)) for name, x in members.items()})


def read_npz(content: bytes) -> dict[str, Map]:
    """Return the maps of a .npz file that ``npz`` describes."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def map_of(side: str) -> Map:
        a = {k.partition(".")[2]: x for k, x in arrays.items() if k.startswith(f"{side}.")}

        def apply(x: Floats) -> Floats:
            y = x
            if "W" in a:
                y = x @ a["W"]
            elif "A" in a:
                y = x + a["scaling"] * ((x @ a["A"]) @ a["B"])
            y = y + a["b"] if "b" in a else y
            return unit(y) if arrays["normalize"] else y

        return apply

    return {side: map_of(side) for side in SIDES}
