"""Texts to vectors by an HTTP service that speaks OpenAI's protocol, whoever runs it."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.embedder import Embedder, Side, check_texts
from coreframe.errors import ArgumentError, ArgumentTypeError, EmbedderError
from coreframe.http_json import Service


@dataclass(frozen=True, kw_only=True)
class OpenAI(Embedder):
    """Ask an HTTP service of OpenAI's form: OpenAI, Azure, vLLM, Ollama, llama.cpp and others.

        POST base_url/embeddings   {"model": ..., "input": [texts], "encoding_format": "float"}

    Only the standard library is needed. The key is read from an environment variable when it is
    used; it stands in no configuration, artefact, cache, log or error.

    Args:
        model: the name that the service knows, such as ``text-embedding-3-small``.
        base_url: up to and without ``/embeddings``. Default: that of OpenAI.
        api_key_variable: NAME of the environment variable that holds the key; None sends none.
            Default: OPENAI_API_KEY.
        dimensions: >= 1, the width to ask for, where the model can shorten its vectors. Default:
            None, the model's own.
        query_prompt, document_prompt: texts put before each query, or document. Default: none.
        batch_size: >= 1, texts a request. Default: 128; a service has limits of its own.
        timeout: > 0, seconds to wait for an answer. Default: 60.
        retries: >= 0, how often a request is sent again after 408, 409, 429, 5xx, a timeout or a
            broken connection, after 1, 2, 4, ... seconds, at most 60, or what ``Retry-After``
            asks for. Default: 6, about a minute in all.

    Shapes: n texts to (n, d), float32, in the order of the texts whatever that of the answer.

    Edges: an empty text, or one of spaces only, is a row of zeros and is not sent. An answer with
    missing, repeated or uneven rows, or with numbers that are not finite, is an error, and so are
    a redirect (it would take the key elsewhere), and what is not sent again: a wrong key, an
    unknown model, a text that is too long, a used-up quota. Errors say what the service said.

    Cost: the service's; one request at a time.

    References: https://platform.openai.com/docs/api-reference/embeddings/create

    >>> OpenAI(model="text-embedding-3-small", dimensions=256).base_model
    'text-embedding-3-small'
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_variable: str | None = "OPENAI_API_KEY"
    dimensions: int | None = None
    query_prompt: str = ""
    document_prompt: str = ""
    batch_size: int = 128
    timeout: float = 60.0
    retries: int = 6

    def __post_init__(self) -> None:
        for name in ("model", "base_url", "query_prompt", "document_prompt"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ArgumentTypeError(f"OpenAI.{name} must be a text, got {value!r}")
        if not self.model.strip():
            raise ArgumentError("OpenAI.model must be the name of a model, got an empty text")
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ArgumentError(
                "OpenAI.base_url must be an address such as 'http://localhost:8000/v1', "
                f"got {self.base_url!r}"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ArgumentError(
                "OpenAI.base_url must have no user, password or query, since it is stored with "
                "the run; the key comes from the environment variable of api_key_variable"
            )
        name_ = self.api_key_variable
        if name_ is not None and not (isinstance(name_, str) and name_.isidentifier()):
            raise ArgumentError(
                "OpenAI.api_key_variable must be the NAME of an environment variable, such as "
                "'OPENAI_API_KEY', or None; this is none"  # it may be the key: never shown
            )
        if self.dimensions is not None:
            checks.number(self, "dimensions", minimum=1, integer=True)
        checks.number(self, "batch_size", minimum=1, integer=True)
        checks.number(self, "timeout", above=0)
        checks.number(self, "retries", minimum=0, integer=True)

    def embed(self, texts: Sequence[str]) -> Any:
        """Return ``(len(texts), d)`` float32 rows, without a prompt."""
        return self._embed(texts, "")

    def embed_queries(self, texts: Sequence[str]) -> Any:
        """Return the rows of queries."""
        return self._embed(texts, self.query_prompt)

    def embed_documents(self, texts: Sequence[str]) -> Any:
        """Return the rows of documents."""
        return self._embed(texts, self.document_prompt)

    def fingerprint(self, side: Side | None = None) -> Mapping[str, Any]:
        """Return address, model, dimensions and the prompt of the side; never the key."""
        prompts = {"query": self.query_prompt, "document": self.document_prompt}
        return {
            "embedder": "openai",
            "base_url": self.base_url.rstrip("/"),
            "model": self.model,
            "dimensions": self.dimensions,
            "prompt": prompts.get(side or "", ""),
        }

    @property
    def base_model(self) -> str:
        return self.model

    def _embed(self, texts: Sequence[str], prompt: str) -> Any:
        import numpy as np

        check_texts(texts)
        filled = [i for i, text in enumerate(texts) if text.strip()]
        service = Service(
            self.base_url.rstrip("/") + "/embeddings",
            key=self._key(),
            timeout=self.timeout,
            retries=self.retries,
        )
        rows: Any = None
        for start in range(0, len(filled), self.batch_size):
            part = filled[start : start + self.batch_size]
            body: dict[str, Any] = {
                "model": self.model,
                "input": [prompt + texts[i] for i in part],
                "encoding_format": "float",
            }
            if self.dimensions is not None:
                body["dimensions"] = self.dimensions
            new = _rows(service.post(body), len(part), service.url, self.dimensions)
            if rows is None:
                rows = np.zeros((len(texts), new.shape[1]), np.float32)
            elif rows.shape[1] != new.shape[1]:
                raise EmbedderError(
                    f"{service.url} answered with rows of {rows.shape[1]} numbers, then with "
                    f"rows of {new.shape[1]}"
                )
            rows[part] = new
        if rows is not None:
            return rows
        if len(texts) and self.dimensions is None:
            raise ArgumentError("all texts are empty, so that nobody knows the width of a row")
        return np.zeros((len(texts), self.dimensions or 0), np.float32)

    def _key(self) -> str | None:
        if self.api_key_variable is None:
            return None
        key = os.environ.get(self.api_key_variable, "").strip()
        if not key:
            raise EmbedderError(
                f"the environment variable {self.api_key_variable} with the key for "
                f"{self.base_url} is not set; a service without a key: api_key_variable=None"
                ' (in a file: "none")'
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise EmbedderError(  # http.client would show the key in its own error
                f"the environment variable {self.api_key_variable} holds no key that can be sent: "
                "a key is one line of printable ASCII without spaces"
            )
        return key


def _rows(answer: Any, count: int, url: str, dimensions: int | None) -> Any:
    """Return the rows of an answer in the order of the texts, or say what is wrong with it."""
    import numpy as np

    def wrong(what: str) -> EmbedderError:
        return EmbedderError(f"{url} answered {what}; expected {count} embeddings in 'data'")

    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise wrong("without a list 'data'")
    if len(data) != count or not all(isinstance(item, dict) for item in data):
        raise wrong(f"with {len(data)} entries")
    order = [item.get("index", None) for item in data]
    if all(i is None for i in order):
        order = list(range(count))
    if not all(type(i) is int for i in order) or sorted(order) != list(range(count)):
        raise wrong(f"with entries of the indices {order[:8]}")
    vectors = [item.get("embedding") for item in data]
    try:
        given = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError):
        raise wrong("with embeddings that are no lists of numbers of one length") from None
    if given.ndim != 2 or not given.shape[1]:
        raise wrong("with embeddings that are no lists of numbers of one length")
    if dimensions is not None and given.shape[1] != dimensions:
        raise wrong(f"with rows of {given.shape[1]} numbers for dimensions={dimensions}")
    rows = np.empty(given.shape, np.float32)
    with np.errstate(over="ignore"):
        rows[order] = given
    if not np.isfinite(rows).all():
        raise wrong("with numbers that are not finite in float32")
    return rows
