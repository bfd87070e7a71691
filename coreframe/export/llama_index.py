"""The folder that LlamaIndex's ``AdapterEmbeddingModel`` loads, written without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coreframe.artefact import TrainedAdapter
from coreframe.errors import ArgumentError
from coreframe.export import torch_file
from coreframe.export.target import Floats, Map, Target, affine
from coreframe.storage import write_files


@dataclass(frozen=True, kw_only=True)
class LlamaIndex(Target):
    """``config.json``, ``pytorch_model.bin``: the map of the queries; documents pass unchanged."""

    name: ClassVar[str] = "llama-index"
    normalizes: ClassVar[bool] = False

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        if adapter.side("query").is_identity and adapter.rebuilds_index:
            raise ArgumentError(
                "llama-index adapts queries only, and this adapter moves documents only; "
                "apply it to their vectors: coreframe apply RUN IN OUT --side document"
            )
        w, b = affine(adapter, "query")
        if w.shape[0] != w.shape[1]:
            raise ArgumentError(
                f"LlamaIndex's layer starts as a square identity and cannot hold a map from "
                f"{w.shape[0]} to {w.shape[1]} numbers; wrap the model with the target langchain"
            )
        # LlamaIndex calls LinearLayer(**config): any other key is an error there.
        config = {"in_features": w.shape[0], "out_features": w.shape[1], "bias": b is not None}
        tensors = {"linear.weight": w.T} | ({} if b is None else {"linear.bias": b})
        files = {
            "config.json": (json.dumps(config, indent=2) + "\n").encode(),
            "pytorch_model.bin": torch_file.write(tensors),
        }
        write_files(folder, files)

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shapes: dict[str, tuple[int, ...]]
        shapes = {"linear.weight": (config["out_features"], config["in_features"])}
        if config["bias"]:
            shapes["linear.bias"] = (config["out_features"],)
        tensors = torch_file.read((folder / "pytorch_model.bin").read_bytes(), shapes)

        def linear(x: Floats) -> Floats:
            y = x @ tensors["linear.weight"].T
            return y + tensors["linear.bias"] if config["bias"] else y

        return {"query": linear}

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        return [
            "from llama_index.embeddings.adapter import AdapterEmbeddingModel",
            'model = AdapterEmbeddingModel(base_embed_model, "FOLDER")',
        ]

    def notes(self, adapter: TrainedAdapter) -> list[str]:
        notes = [
            "LlamaIndex applies no normalisation after the adapter: query vectors come out at "
            "other lengths, which matters to a store that searches by dot product or distance, "
            "and not to one that searches by cosine."
        ]
        if adapter.rebuilds_index:
            notes.append(
                "LlamaIndex adapts queries only, and this adapter moves documents too: put their "
                "vectors into the store after `coreframe apply RUN IN OUT --side document`."
            )
        return notes
