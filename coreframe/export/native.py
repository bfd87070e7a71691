"""Our own two files, as ``coreframe.load`` reads them; docs/format.md describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coreframe.artefact import SIDES, TrainedAdapter, load
from coreframe.export.target import Floats, Map, Target
from coreframe.storage import write_files


@dataclass(frozen=True, kw_only=True)
class Native(Target):
    """``model.safetensors`` and ``config.json``."""

    name: ClassVar[str] = "native"

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        write_files(folder, adapter.files())

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        stored = load(folder)

        def map_of(side: str) -> Map:
            def apply(x: Floats) -> Floats:
                y: Floats = stored(x, side)
                return y

            return apply

        return {side: map_of(side) for side in SIDES}

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        return [
            "import coreframe",
            'adapter = coreframe.load("FOLDER")',
            "queries = adapter(queries)",
            'documents = adapter(documents, side="document")',
        ]
