"""The targets by name. Listing them imports nothing that they need."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from coreframe.errors import ArgumentError, UnknownName, nearest
from coreframe.export.target import Target

TARGETS = {
    "native": "native:Native",
    "numpy": "numpy:NumPy",
    "sentence-transformers": "sentence_transformers:SentenceTransformers",
    "llama-index": "llama_index:LlamaIndex",
    "langchain": "langchain:LangChain",
    "chroma": "chroma:Chroma",
    "onnx": "onnx:Onnx",
    "faiss": "faiss:Faiss",
    "pgvector": "pgvector:Pgvector",
    "static": "static:Static",
    "matrix": "matrix:Matrix",
}


def build(name: str, options: dict[str, Any]) -> Target:
    """Return a target with its options.

    Raises UnknownName for another name, ArgumentError for an option that it does not have.
    """
    if name not in TARGETS:
        raise UnknownName(
            f"there is no export target {name!r}; there are {', '.join(TARGETS)}."
            + nearest(name, TARGETS)
        )
    module, _, attribute = TARGETS[name].partition(":")
    target: type[Target] = getattr(importlib.import_module(f"coreframe.export.{module}"), attribute)
    known = list(inspect.signature(target).parameters)
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ArgumentError(f"the target {name!r} has no option {option!r}; {has}")
    return target(**options)
