"""The model card: the README.md of the folder that holds an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coreframe.outcome import Outcome
from coreframe.report.data import report_data
from coreframe.report.page import template

EXPORTS = ("sentence-transformers", "llama-index", "onnx", "faiss", "pgvector")
"""The targets that the card names; ``coreframe export --help`` has all."""


def model_card(
    outcome: Outcome,
    *,
    title: str,
    environment: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> str:
    """Return the card in Markdown; ``data`` is the run's report data, where it is known already."""
    found = data or report_data(outcome, title=title, config_text="", environment=environment)
    promoted = next(c for c in found["candidates"] if c["stored"])
    name = " ".join(title.split())
    return template("model_card.md").render(
        **{**found, "title": name},
        results=promoted["test"],
        pipeline_tag="sentence-similarity" if found["texts"] else "feature-extraction",
        exports=EXPORTS,
        yaml=lambda text: json.dumps(text, ensure_ascii=False),
    )
