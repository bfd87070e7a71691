"""The stored adapter: two small files that four lines of NumPy can read.

``model.safetensors`` holds, for each side that is adapted, ``<side>.W`` (d_in, d_out), or the thin
``<side>.A`` (d, r) and ``<side>.B`` (r, d) of a low-rank adapter, and maybe ``<side>.b`` (d_out,).
``config.json`` says which. The map of a side is

    y = x @ W + b            linear
    y = x + scaling * (x @ A) @ B (+ b)    low_rank
    y = x                    identity

followed by division by the length of y when ``normalize`` is set. No code is stored or run.

``config.json`` also holds, under ``arrays``, the sha256 of each array's bytes with its dtype and
shape, and under ``checksum`` one of itself; ``load`` looks at both. The model file carries the same
text, so that of two files that a power cut left from two adapters the model file is the adapter.
Files without hashes load as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from coreframe import checks
from coreframe.adapter import Adapter
from coreframe.backend import Array, Params, device_of, namespace, to_numpy
from coreframe.dtypes import widened
from coreframe.errors import ArgumentError, ArtefactError
from coreframe.similarity import Similarity
from coreframe.storage import (
    check_format,
    checksum,
    differing,
    fingerprint,
    make_folder,
    write_files,
)

if TYPE_CHECKING:
    from coreframe.export import Exported

__all__ = ["Side", "TrainedAdapter", "load"]

FORMAT = "coreframe-adapter"
VERSION = 1
SIDES = ("query", "document")
FORMS = {"identity": (), "linear": ("W",), "low_rank": ("A", "B")}


@dataclass(frozen=True, eq=False)
class Side:
    """The affine map of one side; arrays are NumPy float32."""

    form: str = "identity"
    arrays: Mapping[str, Any] = field(default_factory=dict)
    scaling: float = 1.0

    @classmethod
    def of(cls, adapter: Adapter, params: Params) -> Side:
        """Return the map of an adapter: low-rank where it has such a form, else one matrix."""
        import numpy as np

        own = {name: to_numpy(x) for name, x in params.items()}
        if (thin := adapter.thin(own)) is not None:
            a, b, scaling = thin
            return cls("low_rank", {"A": a.astype(np.float32), "B": b.astype(np.float32)}, scaling)
        w, b = adapter.matrix(own)
        arrays = {"W": w.astype(np.float32)}
        return cls("linear", arrays if b is None else {**arrays, "b": b.astype(np.float32)})

    @property
    def is_identity(self) -> bool:
        return self.form == "identity" and "b" not in self.arrays

    def matrix(self, dimensions: int) -> tuple[Any, Any]:
        """Return (W, b) in float64, b None if there is none."""
        import numpy as np

        a = {name: np.asarray(x, np.float64) for name, x in self.arrays.items()}
        w = np.eye(dimensions) if self.form != "linear" else a["W"]
        if self.form == "low_rank":
            w = w + self.scaling * (a["A"] @ a["B"])
        return w, a.get("b")

    def apply(self, x: Array) -> Array:
        xp, device = namespace(x=x), device_of(x)
        a = {
            name: xp.asarray(value, dtype=x.dtype, device=device)
            for name, value in self.arrays.items()
        }
        y = x
        if self.form == "linear":
            y = x @ a["W"]
        elif self.form == "low_rank":
            y = x + self.scaling * ((x @ a["A"]) @ a["B"])
        return y + a["b"] if "b" in a else y

    def then(self, other: Side, dimensions: int) -> Side:
        """Return the map of this side followed by another."""
        import numpy as np

        if self.is_identity:
            return other
        if other.is_identity:
            return self
        w1, b1 = self.matrix(dimensions)
        w2, b2 = other.matrix(w1.shape[1])
        bias = None if b1 is None else b1 @ w2
        if b2 is not None:
            bias = b2 if bias is None else bias + b2
        arrays = {"W": (w1 @ w2).astype(np.float32)}
        if bias is not None:
            arrays["b"] = bias.astype(np.float32)
        return Side("linear", arrays)


@dataclass(frozen=True, eq=False)
class TrainedAdapter:
    """An adapter for queries and documents, callable on arrays of any library.

    ``adapter(x)`` adapts queries, ``adapter(x, side="document")`` documents; arrays come back in
    the library, device and dtype they came in. A side that is not adapted only has its rows
    brought to unit length, where ``normalize`` is set.
    """

    dimensions: int
    sides: Mapping[str, Side] = field(default_factory=dict)
    normalize: bool = True
    similarity: str = "cosine"
    base_model: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    thread_safe: ClassVar[bool] = True

    @property
    def is_identity(self) -> bool:
        return all(self.side(name).is_identity for name in SIDES)

    @property
    def rebuilds_index(self) -> bool:
        """Whether documents move too, so that their index must be built again."""
        return not self.side("document").is_identity

    def side(self, name: str) -> Side:
        if name not in SIDES:
            raise ArgumentError(f"side must be 'query' or 'document', got {name!r}")
        return self.sides.get(name, Side())

    def __call__(self, x: Array, side: str = "query") -> Array:
        own = self.side(side)
        if getattr(x, "ndim", 0) == 1:
            return self(x[None, :], side)[0, :]
        x = checks.embeddings("x", x)
        if x.shape[1] != self.dimensions:
            raise ArgumentError(
                f"x must have width {self.dimensions}, as the vectors this adapter was trained "
                f"on, got {x.shape[1]}"
            )
        xp = namespace(x=x)
        y = own.apply(widened(x, xp))
        if self.normalize:
            y, _ = Similarity("cosine").prepare(y, None)
        return y if y.dtype == x.dtype else xp.astype(y, x.dtype)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write model.safetensors and config.json: both whole, or neither."""
        write_files(make_folder(folder), self.files())

    def export(self, folder: str | os.PathLike[str], *, to: str, **options: Any) -> Exported:
        """Write the adapter for another program: see ``coreframe.export.export``."""
        from coreframe.export import export

        return export(self, folder, to=to, **options)

    def files(self) -> dict[str, bytes]:
        """Return what is stored: the content of each file by its name."""
        from safetensors.numpy import save

        tensors: dict[str, Any] = {}
        sides = {}
        for name in SIDES:
            own = self.side(name)
            tensors |= {f"{name}.{key}": to_numpy(x).copy() for key, x in own.arrays.items()}
            sides[name] = {
                "form": own.form,
                "scaling": own.scaling,
                "bias": "b" in own.arrays,
                "rebuild_index": name == "document" and not own.is_identity,
            }
        config = {
            "format": FORMAT,
            "version": VERSION,
            "dimensions": self.dimensions,
            "similarity": self.similarity,
            "normalize": self.normalize,
            "base_model": self.base_model,
            "sides": sides,
            "notes": dict(self.notes),
            "arrays": {name: fingerprint(x) for name, x in tensors.items()},
        }
        config["checksum"] = checksum(config)
        text = json.dumps(config, indent=2, ensure_ascii=False)
        model = save(tensors, {"coreframe": json.dumps(config)})
        return {"model.safetensors": model, "config.json": (text + "\n").encode()}


def load(folder: str | os.PathLike[str]) -> TrainedAdapter:
    """Load a stored adapter. Raises ArtefactError that names the file and what is wrong."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load as tensors_of

    path = Path(folder)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        data = (path / "model.safetensors").read_bytes()
        tensors = {name: np.array(x) for name, x in tensors_of(data).items()}
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise ArtefactError(f"{path} is no stored adapter: {missing} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path / 'config.json'} is damaged: no JSON: {error}") from None
    except SafetensorError as error:
        raise ArtefactError(f"{path / 'model.safetensors'} is damaged: {error}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtefactError(f"the adapter in {path} cannot be read: {error}") from None
    check_format(config, FORMAT, VERSION, path / "config.json")
    config = _verified(config, tensors, data, path)
    try:
        dimensions, normalize, notes = (config[k] for k in ("dimensions", "normalize", "notes"))
        Similarity(config["similarity"])
        if type(dimensions) is not int or dimensions < 1:
            raise ValueError(f"dimensions {dimensions!r}")
        if type(normalize) is not bool or not isinstance(notes, dict):
            raise ValueError(f"normalize {normalize!r}, notes {type(notes).__name__}")
        sides: dict[str, Side] = {}
        wanted: dict[str, tuple[int | None, ...]] = {}
        for name in SIDES:
            own = config["sides"][name]
            keys = (*FORMS[own["form"]], *(("b",) if own["bias"] else ()))
            for key in keys:
                # The first number of a W or an A, and the last of a B, is the width.
                wanted[f"{name}.{key}"] = {"W": (dimensions, None), "A": (dimensions, None)}.get(
                    key, (None, dimensions) if key == "B" else (None,)
                )
            sides[name] = Side(
                own["form"], {key: tensors[f"{name}.{key}"] for key in keys}, float(own["scaling"])
            )
        adapter = TrainedAdapter(
            dimensions,
            sides,
            normalize,
            str(config["similarity"]),
            config.get("base_model"),
            notes,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ArtefactError(
            f"the adapter in {path} is damaged: {type(error).__name__} {error}"
        ) from None
    for name, shape in wanted.items():
        x = tensors[name]
        fits = x.ndim == len(shape) and all(
            b is None or a == b for a, b in zip(x.shape, shape, strict=True)
        )
        if not fits or x.dtype.kind != "f" or not np.isfinite(x).all():
            raise ArtefactError(
                f"the adapter in {path} is damaged: {name} is {x.dtype} {x.shape}, "
                f"for dimensions {dimensions}"
            )
    widths = set()
    for name, side in sides.items():
        shapes = {key: x.shape for key, x in side.arrays.items()}
        width = shapes.get("W", (0, dimensions))[1]
        thin = shapes.get("A", (0, 0))[1] == shapes.get("B", (0, 0))[0]
        widths.add(width)
        if not thin or shapes.get("b", (width,)) != (width,) or not np.isfinite(side.scaling):
            raise ArtefactError(
                f"the adapter in {path} is damaged: {name} has arrays of {shapes}, which do not "
                f"fit together, or scaling {side.scaling}"
            )
    if len(widths) > 1:
        raise ArtefactError(f"the adapter in {path} is damaged: its sides have widths {widths}")
    return adapter


def _verified(
    config: dict[str, Any], tensors: Mapping[str, Any], data: bytes, path: Path
) -> dict[str, Any]:
    """Return the config that the arrays belong to, once every hash is found right."""
    length = int.from_bytes(data[:8], "little")
    try:
        inside = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["coreframe"])
    except (KeyError, TypeError, ValueError, RecursionError):
        inside = None
    hashed = isinstance(inside, dict) and "checksum" in inside
    if "checksum" not in config and "arrays" not in config and not hashed:
        return config  # as they were before there were hashes
    if not _is_whole(config):
        raise ArtefactError(f"{path / 'config.json'} is damaged: it is not what was stored")
    if hashed and inside != config and isinstance(inside, dict) and _is_whole(inside):
        config = check_format(inside, FORMAT, VERSION, path / "model.safetensors")
    for name, reason in differing(tensors, config["arrays"]):
        raise ArtefactError(
            f"{path / 'model.safetensors'} is damaged: the array {name!r}: {reason}"
        )
    return config


def _is_whole(config: Mapping[str, Any]) -> bool:
    rest = {key: x for key, x in config.items() if key != "checksum"}
    return "arrays" in config and config.get("checksum") == checksum(rest)
