"""Texts to vectors by any model of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coreframe import checks
from coreframe.embedder import Embedder, Side, check_texts
from coreframe.errors import ArgumentError, ArgumentTypeError, MissingExtra
from coreframe.model_files import (
    identity,
    loading,
    not_loaded,
    read_json,
    version,
    without_bars,
)


@dataclass(frozen=True, kw_only=True)
class SentenceTransformers(Embedder):
    """Encode with a model of the ``sentence-transformers`` package (and PyTorch).

        x = model.encode_query(text) or model.encode_document(text),   x / ||x|| where normalize

    Queries and documents get the prompts that the model itself has for them, and its routes,
    unless other prompts are given.

    Args:
        model: a folder, or a name of the Hugging Face hub such as
            ``sentence-transformers/all-MiniLM-L6-v2``.
        query_prompt, document_prompt: texts put before each query, or document, "" for none.
            Default: None, what the model says.
        device: as PyTorch names it, such as ``cuda:1``. Default: None, a GPU if there is one.
        batch_size: >= 1, texts that the model gets at once. Default: 32, as the package.
        normalize: whether rows have length one. Default: True, so that dot products are cosines.
        dimensions: >= 1, the first numbers of each row only, for Matryoshka models. Default: None,
            all.
        max_length: >= 1, tokens after which a text is cut. Default: None, the model's own limit.
        revision: a commit or tag of the hub. Default: None, the newest.
        offline: whether nothing may be fetched; ``HF_HUB_OFFLINE=1`` does the same. Default: False.

    Shapes: n texts to (n, d), float32.

    Edges: code that a model brings along is never run. A model that is nowhere is an error that
    names it. An empty text is encoded as any other.

    Cost: the model's; it is loaded once a process, when the first text is embedded.

    References: Reimers and Gurevych 2019, arXiv 1908.10084; https://sbert.net

    >>> SentenceTransformers(model="sentence-transformers/all-MiniLM-L6-v2").batch_size
    32
    """

    model: str
    query_prompt: str | None = None
    document_prompt: str | None = None
    device: str | None = None
    batch_size: int = 32
    normalize: bool = True
    dimensions: int | None = None
    max_length: int | None = None
    revision: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, str):
            raise ArgumentTypeError(
                f"SentenceTransformers.model must be a folder or a name, got {self.model!r}"
            )
        if not self.model.strip():
            raise ArgumentError("SentenceTransformers.model must be a folder or a name, got ''")
        for name in ("query_prompt", "document_prompt", "device", "revision"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ArgumentTypeError(
                    f"SentenceTransformers.{name} must be a text or None, got {value!r}"
                )
        checks.number(self, "batch_size", minimum=1, integer=True)
        for name in ("dimensions", "max_length"):
            if getattr(self, name) is not None:
                checks.number(self, name, minimum=1, integer=True)
        checks.flag(self, "normalize")
        checks.flag(self, "offline")

    def embed(self, texts: Sequence[str]) -> Any:
        """Return ``(len(texts), d)`` float32 rows, as ``encode`` has them."""
        return self._encode(texts, None)

    def embed_queries(self, texts: Sequence[str]) -> Any:
        """Return the rows of queries."""
        return self._encode(texts, "query")

    def embed_documents(self, texts: Sequence[str]) -> Any:
        """Return the rows of documents."""
        return self._encode(texts, "document")

    def fingerprint(self, side: Side | None = None) -> Mapping[str, Any] | None:
        """Return the files of the model, the package's version and what was asked for."""
        files = identity(self.model, self.revision)
        if files is None:  # not here yet: fetched now, so that it has a commit
            self._model()
            files = identity(self.model, self.revision)
        if files is None:
            return None
        given = {"query": self.query_prompt, "document": self.document_prompt}.get(side or "")
        prompt, routed = self._treatment(side)
        return {
            "embedder": "sentence_transformers",
            "files": files,
            "version": version("sentence-transformers"),
            "route": side if routed else None,
            "prompt": prompt if given is None else given,
            "normalize": self.normalize,
            "dimensions": self.dimensions,
            "max_length": self.max_length,
        }

    @property
    def base_model(self) -> str:
        return self.model

    def _treatment(self, side: Side | None) -> tuple[str, bool]:
        """Return the prompt that the model has for a side, and whether it has ways of its own for
        the sides, as its files say. Two sides that are treated alike are embedded once.
        """
        config = read_json(self.model, "config_sentence_transformers.json", self.revision)
        config = config if isinstance(config, dict) else {}
        prompts = config.get("prompts") or {}
        name = _named(side, prompts) or config.get("default_prompt_name")
        modules = read_json(self.model, "modules.json", self.revision)
        routed = any(word in str(modules) for word in ("Router", "Asym"))
        return str(prompts.get(name) or ""), routed

    def _model(self) -> Any:
        return load(
            self.model, self.revision, self.device, self.dimensions, self.max_length, self.offline
        )

    def _encode(self, texts: Sequence[str], side: Side | None) -> Any:
        import numpy as np

        check_texts(texts)
        model = self._model()
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "normalize_embeddings": self.normalize,
            "convert_to_numpy": True,
            "show_progress_bar": False,
        }
        prompt = {"query": self.query_prompt, "document": self.document_prompt}.get(side or "")
        if prompt is not None:
            options["prompt"] = prompt
        encode = getattr(model, f"encode_{side}", None) if side else None
        if encode is None:  # before version 5 there are prompts, but no such methods
            encode = model.encode
            name = _named(side, getattr(model, "prompts", None) or {})
            if name is not None and prompt is None:
                options["prompt_name"] = name
        if not len(texts):
            return np.zeros((0, width(model)), np.float32)
        return np.asarray(encode(list(texts), **options), dtype=np.float32)


def _named(side: Side | None, prompts: Mapping[str, str]) -> str | None:
    """Return the name of the prompt for a side, as the package chooses it."""
    names = {"query": ("query",), "document": ("document", "passage", "corpus")}
    return next((name for name in names.get(side or "", ()) if name in prompts), None)


@lru_cache(maxsize=2)
def load(
    model: str,
    revision: str | None,
    device: str | None,
    dimensions: int | None,
    max_length: int | None,
    offline: bool,
) -> Any:
    """Load a model once; raise MissingExtra or EmbedderError."""
    try:
        with loading():
            import sentence_transformers
    except ImportError as error:
        raise MissingExtra(
            "sentence-transformers",
            extra="sentence-transformers",
            purpose="the embedder 'sentence_transformers'",
        ) from error
    try:
        with without_bars():
            found = sentence_transformers.SentenceTransformer(
                model,
                device=device,
                revision=revision,
                truncate_dim=dimensions,
                local_files_only=offline,
                trust_remote_code=False,
            )
    except Exception as error:  # of many kinds: of the hub, of PyTorch, of configuration files
        raise not_loaded("sentence_transformers", model, error) from error
    if max_length is not None:
        found.max_seq_length = max_length
    return found


def width(model: Any) -> int:
    """Return the length of a model's vectors."""
    name = "get_embedding_dimension"
    get = getattr(model, name, None) or model.get_sentence_embedding_dimension
    return int(get() or 0)
