"""FAISS's own ``LinearTransform`` in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from coreframe.artefact import TrainedAdapter
from coreframe.errors import ExportError, MissingExtra
from coreframe.export.target import Floats, Map, Target, adapted_sides, affine, maps


@dataclass(frozen=True, kw_only=True)
class Faiss(Target):
    """``adapter.vt``, or ``query.vt`` and ``document.vt`` where the two move differently."""

    name: ClassVar[str] = "faiss"
    normalizes: ClassVar[bool] = False

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        faiss = _faiss()
        for name, sides in _files(adapter).items():
            w, b = affine(adapter, sides[0])
            transform = faiss.LinearTransform(w.shape[0], w.shape[1], b is not None)
            faiss.copy_array_to_vector(np.ascontiguousarray(w.T).ravel(), transform.A)
            if b is not None:
                faiss.copy_array_to_vector(b, transform.b)
            transform.is_trained = True
            try:
                faiss.write_VectorTransform(transform, str(folder / name))
            except RuntimeError as error:  # its text is of several lines of C++
                raise ExportError(f"faiss cannot write {folder / name}: {error}") from None

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        faiss = _faiss()

        def map_of(name: str) -> Map:
            transform = faiss.read_VectorTransform(str(folder / name))

            def apply(x: Floats) -> Floats:
                y: Floats = transform.apply(x)
                return y

            return apply

        return {side: map_of(name) for name, sides in _files(adapter).items() for side in sides}

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        files = _files(adapter)
        lines = ["import faiss"]
        if len(files) == 1 and adapter.rebuilds_index and len(adapted_sides(adapter)) == 2:
            lines.append('lt = faiss.read_VectorTransform("FOLDER/adapter.vt")')
            flat = "IndexFlatIP" if adapter.similarity in ("cosine", "dot") else "IndexFlatL2"
            lines.append(f"index = faiss.{flat}(lt.d_out)")
            if adapter.normalize or adapter.similarity == "cosine":
                lines.append(
                    "index = faiss.IndexPreTransform("
                    "faiss.NormalizationTransform(lt.d_out, 2.0), index)"
                )
                lines.append("index.prepend_transform(lt)")
            else:
                lines.append("index = faiss.IndexPreTransform(lt, index)")
            return [*lines, "index.add(documents)  # the base model's vectors: the index adapts"]
        for name, sides in files.items():
            x = {"query": "queries", "document": "documents"}[sides[0]]
            lines.append(f'{x} = faiss.read_VectorTransform("FOLDER/{name}").apply({x})')
            if adapter.normalize:
                lines.append(f"faiss.normalize_L2({x})")
        return lines

    def notes(self, adapter: TrainedAdapter) -> list[str]:
        if not adapter.normalize:
            return []
        return ["The transform is the linear map alone; the lines here divide by the length too."]


def _files(adapter: TrainedAdapter) -> dict[str, tuple[str, ...]]:
    """Return the name of each file and the sides that it serves."""
    return {f"{name}.vt": sides for name, sides in maps(adapter).items()}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtra("faiss-cpu", "faiss", "an export to FAISS") from None
    return faiss
