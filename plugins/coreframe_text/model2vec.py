"""Texts to vectors by a static model of Model2Vec: averaged token vectors, fast on a CPU."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coreframe import checks
from coreframe.embedder import Embedder, Side, check_texts
from coreframe.errors import ArgumentError, ArgumentTypeError, MissingExtra
from coreframe.model_files import identity, loading, not_loaded, version


@dataclass(frozen=True, kw_only=True)
class Model2Vec(Embedder):
    """Average the token vectors of a static model of the ``model2vec`` package.

        x = mean over tokens t of w[t] E[t],   then x / ||x|| where normalize

    It sees meaning, needs no PyTorch, and embeds thousands of texts a second on one core.

    Args:
        model: a folder, or a name of the Hugging Face hub such as ``minishlab/potion-base-8M``.
        normalize: whether rows have length one. Default: True, so that dot products are cosines.
        dimensions: >= 1, the first numbers of each row only. Default: None, all.

    Shapes: n texts to (n, d), float32.

    Edges: an empty text, or one without a known token, is a row of zeros. A model that is nowhere
    is an error that names it; ``HF_HUB_OFFLINE=1`` lets nothing be fetched.

    Cost: time linear in the tokens; the table of token vectors is read once a process.

    References: https://github.com/MinishLab/model2vec

    >>> Model2Vec(model="minishlab/potion-base-8M").normalize
    True
    """

    model: str
    normalize: bool = True
    dimensions: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str):
            raise ArgumentTypeError(
                f"Model2Vec.model must be a folder or a name, got {self.model!r}"
            )
        if not self.model.strip():
            raise ArgumentError("Model2Vec.model must be a folder or a name, got ''")
        checks.flag(self, "normalize")
        if self.dimensions is not None:
            checks.number(self, "dimensions", minimum=1, integer=True)

    def embed(self, texts: Sequence[str]) -> Any:
        """Return ``(len(texts), d)`` float32 rows; an empty text gives zeros."""
        import numpy as np

        check_texts(texts)
        model = load(self.model, self.dimensions)
        rows = np.zeros((len(texts), model.dim), np.float32)
        filled = [i for i, text in enumerate(texts) if text.strip()]
        if filled:
            given = [texts[i] for i in filled]
            rows[filled] = np.nan_to_num(model.encode(given, use_multiprocessing=False))
        if self.normalize:
            norm = np.linalg.norm(rows, axis=1, keepdims=True)
            rows /= np.where(norm == 0, 1, norm)
        return rows

    def fingerprint(self, side: Side | None = None) -> Mapping[str, Any] | None:
        """Return the files of the model, the package's version and what was asked for."""
        files = identity(self.model)
        if files is None:  # not here yet: fetched now, so that it has a commit
            load(self.model, self.dimensions)
            files = identity(self.model)
        if files is None:
            return None
        return {
            "embedder": "model2vec",
            "files": files,
            "version": version("model2vec"),
            "normalize": self.normalize,
            "dimensions": self.dimensions,
        }

    @property
    def base_model(self) -> str:
        return self.model


@lru_cache(maxsize=2)
def load(model: str, dimensions: int | None) -> Any:
    """Load a model once, without its own normalisation; raise MissingExtra or EmbedderError."""
    try:
        with loading():
            from model2vec import StaticModel
    except ImportError as error:
        purpose = "the embedder 'model2vec'"
        raise MissingExtra("model2vec", extra="model2vec", purpose=purpose) from error
    from_pretrained = StaticModel.from_pretrained
    options: dict[str, Any] = {"normalize": False, "dimensionality": dimensions}
    if "force_download" in inspect.signature(from_pretrained).parameters:
        options["force_download"] = False  # by default it asks the hub again each time
    try:
        return from_pretrained(model, **options)
    except Exception as error:  # of many kinds: of the hub, of tokenizers, of safetensors
        raise not_loaded("model2vec", model, error) from error
