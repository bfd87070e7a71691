"""From data to HTML: one page that loads nothing and needs no script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coreframe import plots
from coreframe.errors import MissingExtra
from coreframe.gate import FEW_TEST_QUERIES
from coreframe.outcome import Outcome
from coreframe.report.data import report_data
from coreframe.report.examples import EXAMPLES
from coreframe.report.figures import constants, figures, map_tones

if TYPE_CHECKING:
    import jinja2

HEALTH = (
    ("effective_rank", "effective rank, queries", "how many directions are in use"),
    ("document_effective_rank", "effective rank, documents", "likewise"),
    ("alignment", "alignment", "mean squared distance to right documents; less is closer"),
    (
        "uniformity",
        "uniformity, queries",
        "0 where all rows are one; \N{MINUS SIGN}4 where they are spread",
    ),
    ("document_uniformity", "uniformity, documents", "likewise"),
    ("hubness", "hubness", "skewness of how often a document is a neighbour; above 2 has hubs"),
    ("distance_from_identity", "distance from the identity, queries", "0 is no change"),
    ("document_distance_from_identity", "distance from the identity, documents", "likewise"),
)
"""The rows of the table of health: field, name, meaning."""

_PROVENANCE = (
    "command", "python", "platform", "packages", "plugins", "backend", "backend_source", "blas",
    "inputs",
)  # fmt: skip
"""What is shown of the environment; the rest is for programs."""


def report_html(
    outcome: Outcome, *, title: str, config_text: str, environment: Mapping[str, Any]
) -> str:
    """Return the report of a run: one HTML file that loads nothing and needs no script."""
    return render(
        report_data(outcome, title=title, config_text=config_text, environment=environment)
    )


def render(data: Mapping[str, Any]) -> str:
    """Return the page of what ``report_data`` returned, or ``read_data`` read."""
    gains, tests = data["gains"], data["data"]["test"][0]
    return template("report.html").render(
        **data,
        figures=figures(data),
        bars=_bars(gains),
        previous_bars=_bars(data["over_previous"] or {}),
        constants=constants(data),
        legend=map_tones(data),
        limit=EXAMPLES,
        few=tests if tests < FEW_TEST_QUERIES else 0,
        health_rows=_health(data["health"]),
        provenance={k: data["environment"][k] for k in _PROVENANCE if data["environment"].get(k)},
    )


def _bars(gains: Mapping[str, Any]) -> dict[str, str]:
    return {m: plots.share_bar(g["better"], g["same"], g["worse"]) for m, g in gains.items()}


def _health(health: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not {"base", "adapted"} <= set(health):
        return []
    rows = []
    for field, name, meaning in HEALTH:
        before, after = (health[look].get(field) for look in ("base", "adapted"))
        if before is not None or after is not None:
            rows.append({"name": name, "meaning": meaning, "before": before, "after": after})
    return rows


def template(name: str) -> jinja2.Template:
    """Return a template of ours, with what all of them use."""
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("jinja2", "cli", "writing a report") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("coreframe", "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "signed": plots.signed,
        "f3": _fixed,
        "g": _short,
        "m3": _measure,
        "n": "{:,}".format,
    }
    return environment.get_template(name)


def _fixed(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else plots.fixed(value)


def _measure(value: float | None) -> str:
    """Return a number to about three digits."""
    size = abs(value or 0)
    return _fixed(value) if size < 10 else plots.fixed(value or 0, 1 if size < 100 else 0)


def _short(value: float) -> str:
    return f"{value:g}".replace("-", plots.MINUS)
