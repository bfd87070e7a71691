"""Distributions, one panel below the other over one axis.

``distributions`` counts values into plain data, which a run can store; ``histograms`` draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coreframe.plots.numbers import fixed, median, ticks
from coreframe.plots.shapes import WIDTH, Scale, rule, short, svg, text, x_axis


def distributions(
    panels: Sequence[tuple[str, Sequence[tuple[str, str, Sequence[float]]]]], *, bins: int = 40
) -> dict[str, Any]:
    """Count the values of panels of series (label, tone, values) over one range.

    Returns ``low``, ``high`` and ``panels``, each with ``name`` and its ``series`` of ``label``,
    ``tone``, ``counts`` and ``median``; an empty mapping where there is no value.
    """
    every = [value for _, series in panels for _, _, values in series for value in values]
    if not every:
        return {}
    low, high = min(every), max(every)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return {
        "low": low,
        "high": high,
        "panels": [
            {
                "name": name,
                "series": [
                    {
                        "label": label,
                        "tone": tone,
                        "counts": _counts(values, low, high, bins),
                        "median": median(values),
                    }
                    for label, tone, values in series
                    if values
                ],
            }
            for name, series in panels
        ],
    }


def histograms(
    found: Mapping[str, Any], *, title: str, x_label: str, panel_height: float = 158
) -> str:
    """Draw what ``distributions`` counted; a series' median is a line through its panel."""
    if not found:
        return ""
    low, high = found["low"], found["high"]
    left, right = 20.0, WIDTH - 20
    x_ticks = ticks(low, high, 6, inside=True)
    at_x = Scale(low, high, left, right)
    parts: list[str] = []
    most = max(max(one["counts"]) for panel in found["panels"] for one in panel["series"])
    bottom = 0.0
    for i, panel in enumerate(found["panels"]):
        top = i * panel_height + 46
        bottom = top + panel_height - 54
        parts.append(text(left, top - 28, panel["name"], "ink", "start", bold=True))
        parts.append(rule(left, bottom, right, bottom, "line"))
        at_y = Scale(0, most, bottom, top)
        for row, one in enumerate(panel["series"]):
            parts.append(_area(one["counts"], low, high, at_x, at_y, one["tone"]))
            middle = at_x(one["median"])
            parts.append(rule(middle, top - 8, middle, bottom, one["tone"], dash="4 3"))
            note = f"{one['label']}, median {fixed(one['median'], 2)}"
            parts.append(text(right, top - 28 + 14 * row, note, one["tone"], "end"))
    parts += x_axis(x_ticks, at_x, bottom, x_label, (left + right) / 2)
    return svg(bottom + 40, title, parts)


def _counts(values: Iterable[float], low: float, high: float, bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(max(int((value - low) / (high - low) * bins), 0), bins - 1)] += 1
    return counts


def _area(
    counts: Sequence[int], low: float, high: float, at_x: Scale, at_y: Scale, tone: str
) -> str:
    width = (high - low) / len(counts)
    path = f"M{short(at_x(low))} {short(at_y(0))}"
    for i, count in enumerate(counts):
        path += f"V{short(at_y(count))}H{short(at_x(low + (i + 1) * width))}"
    return (
        f'<path class="{tone}" d="{path}V{short(at_y(0))}Z" fill="currentColor" '
        'fill-opacity="0.28" stroke="currentColor" stroke-width="1.2"/>'
    )
