"""A curve through measurements with intervals, over sizes that grow by factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coreframe.plots.numbers import signed, ticks
from coreframe.plots.shapes import WIDTH, Scale, dot, rule, short, svg, text, y_axis


def whisker_chart(
    points: Sequence[tuple[float, float, float, float]],
    *,
    title: str,
    x_label: str,
    height: float = 260,
) -> str:
    """Draw (size, low, middle, high) in order of size, on a logarithmic axis, with zero marked."""
    if not points:
        return ""
    y_ticks = ticks(min(0.0, *(p[1] for p in points)), max(0.0, *(p[3] for p in points)))
    left, right, top, bottom = 58.0, WIDTH - 14, 30.0, height - 42
    logs = [math.log(p[0]) for p in points]
    at_x = Scale(min(logs), max(logs), left + 34, right - 34)
    at_y = Scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = y_axis(y_ticks, at_y, left, right)
    parts.append(rule(left, at_y(0), right, at_y(0), "ink"))
    places = [(at_x(x), *map(at_y, p[1:])) for x, p in zip(logs, points, strict=True)]
    path = " ".join(f"{short(x)},{short(y)}" for x, _, y, _ in places)
    parts.append(
        f'<polyline class="accent" points="{path}" fill="none" stroke="currentColor" '
        'stroke-width="1.6" stroke-dasharray="3 4"/>'
    )
    for (x, low, y, high), point in zip(places, points, strict=True):
        tone = "good" if point[1] > 0 else "bad" if point[3] < 0 else "soft"
        parts += [rule(x, low, x, high, tone, width=2.2)]
        parts += [rule(x - 5, end, x + 5, end, tone, width=2.2) for end in (low, high)]
        parts += [
            dot(x, y, 5, tone),
            text(x, high - 7, signed(point[2]), tone, "middle", bold=True),
            text(x, bottom + 18, f"{point[0]:,.0f}", "soft", "middle"),
        ]
    parts.append(text((left + right) / 2, bottom + 36, x_label, "soft", "middle"))
    return svg(height, title, parts)
