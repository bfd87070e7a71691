"""Folders that sentence-transformers loads, with its own module classes only.

A class of ours in the folder would need ``trust_remote_code=True``. If queries and documents move
alike, the adapter is one Dense layer, and loads in any release since 3.4. If they do not (only
queries are adapted), it is a Router with a route each, which came with 5.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from coreframe.artefact import SIDES, TrainedAdapter
from coreframe.errors import ArgumentError
from coreframe.export import base_folder
from coreframe.export.base_folder import DENSE, NORMALIZE, ROUTER, Module
from coreframe.export.target import Floats, Map, Target, affine, moves_alike
from coreframe.storage import make_folder, write_files


@dataclass(frozen=True, kw_only=True)
class SentenceTransformers(Target):
    """A whole model, if ``base`` is given; else the layer alone, to be appended to a model.

    Args:
        base: folder of the model whose vectors the adapter was trained on; it is copied.
    """

    name: ClassVar[str] = "sentence-transformers"
    base: Path | None = None

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        if self.base is None:
            if moves_alike(adapter):
                write_files(folder, base_folder.dense(*affine(adapter, "query")))
            else:
                _write_router(adapter, folder)
            return
        if adapter.similarity == "squared_euclidean":
            raise ArgumentError(
                "sentence-transformers has no similarity 'squared_euclidean'; export without "
                "--base, and rank by euclidean distance, whose order is the same"
            )
        base = Path(self.base)
        modules = base_folder.read_modules(base)
        base_folder.check_width(base, modules, adapter.dimensions)
        base_folder.copy(base, folder)
        new, tail = _placed(adapter, modules)
        if moves_alike(adapter):
            files = base_folder.dense(*affine(adapter, "query"))
            write_files(make_folder(folder / tail[0].path), files)
        else:
            _write_router(adapter, make_folder(folder / tail[0].path))
        base_folder.write_modules(folder, new)
        settings = folder / "config_sentence_transformers.json"
        config = base_folder.read_json(settings) | {"similarity_fn_name": adapter.similarity}
        write_files(folder, {settings.name: (json.dumps(config, indent=2) + "\n").encode()})

    def divides(self, adapter: TrainedAdapter) -> bool:
        return self.base is not None or not moves_alike(adapter)

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        """Return what the modules do that follow the base's; a base's vectors have length 1."""
        if self.base is None:
            tail = _tail(adapter, "")
        else:
            _, expected = _placed(adapter, base_folder.read_modules(Path(self.base)))
            tail = base_folder.read_modules(folder)[-len(expected) :]
        if tail[0].type == ROUTER:
            return {side: _route(folder / tail[0].path, side) for side in SIDES}

        def chain(x: Floats) -> Floats:
            return base_folder.run(folder, tail, x)

        return dict.fromkeys(SIDES, chain)

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        alike = moves_alike(adapter)
        lines = ["from sentence_transformers import SentenceTransformer"]
        if self.base is not None:
            lines.append('model = SentenceTransformer("FOLDER")')
        else:
            kind = "Dense" if alike else "Router"
            extra = ", Normalize" if alike and adapter.normalize else ""
            lines += [
                f"from sentence_transformers.models import {kind}{extra}",
                f'model = SentenceTransformer("{adapter.base_model or "BASE"}")',
                f'model.append({kind}.load("FOLDER"))',
            ]
            if extra:
                lines.append("model.append(Normalize())")
        if alike:
            return [*lines, "vectors = model.encode(texts)"]
        return [
            *lines,
            "queries = model.encode_query(texts)",
            "documents = model.encode_document(texts)  # and encode()",
        ]

    def notes(self, adapter: TrainedAdapter) -> list[str]:
        notes = ["Loads in sentence-transformers 3.4 and later."]
        if not moves_alike(adapter):
            notes = ["Needs sentence-transformers 5 or later: Router and encode_query."]
        if self.base is None:
            notes.append(
                "From release 6 on, the classes are in sentence_transformers.sentence_transformer"
                ".modules, and the import above warns."
            )
        return notes


def _tail(adapter: TrainedAdapter, path: str) -> list[Module]:
    """Return the modules that follow the base's vectors."""
    if not moves_alike(adapter):
        return [Module(path, ROUTER)]
    last = [Module(path + "_Normalize", NORMALIZE)] if adapter.normalize else []
    return [Module(path, DENSE), *last]


def _placed(adapter: TrainedAdapter, modules: list[Module]) -> tuple[list[Module], list[Module]]:
    """Return all modules of the new model, and those of its end that the adapter is.

    A map without a bias stands before a last Normalize, which then serves it too: only the
    direction counts. Anything else stands behind it, with a Normalize of its own.
    """
    number = len(modules)
    if not moves_alike(adapter):
        tail = [Module(f"{number}_Router", ROUTER)]
        return [*modules, *tail], tail
    layer = Module(f"{number}_Dense", DENSE)
    bias = "b" in adapter.side("query").arrays
    if adapter.normalize and not bias and modules[-1].kind == "Normalize":
        tail = [layer, modules[-1]]
        return [*modules[:-1], *tail], tail
    last = [Module(f"{number + 1}_Normalize", NORMALIZE)] if adapter.normalize else []
    tail = [layer, *last]
    return [*modules, *tail], tail


def _write_router(adapter: TrainedAdapter, folder: Path) -> None:
    """Write a Router: queries take one route, documents and plain ``encode`` the other."""
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for side in SIDES:
        w, b = affine(adapter, side)
        layers = []
        # A route may not be empty: where nothing is to be done, a Dense layer that is the identity.
        if not adapter.side(side).is_identity or not adapter.normalize:
            layers.append(DENSE)
        if adapter.normalize:
            layers.append(NORMALIZE)
        names = [f"{side}_{i}_{kind.rpartition('.')[2]}" for i, kind in enumerate(layers)]
        types |= dict(zip(names, layers, strict=True))
        structure[side] = names
        for name, kind in zip(names, layers, strict=True):
            files = base_folder.dense(w, b) if kind == DENSE else {"config.json": b"{}\n"}
            write_files(make_folder(folder / name), files)
    config = {
        "types": types,
        "structure": structure,
        "parameters": {
            "default_route": "document",
            "allow_empty_key": True,
            "route_mappings": {},
        },
    }
    content = (json.dumps(config, indent=2) + "\n").encode()
    write_files(folder, {"router_config.json": content})


def _route(folder: Path, side: str) -> Map:
    config = json.loads((folder / "router_config.json").read_text(encoding="utf-8"))
    modules = [Module(name, config["types"][name]) for name in config["structure"][side]]

    def apply(x: Floats) -> Floats:
        return np.asarray(base_folder.run(folder, modules, x))

    return apply
