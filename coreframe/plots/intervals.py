"""Gains with their intervals, and shares of queries."""

from __future__ import annotations

from collections.abc import Sequence

from coreframe.plots.numbers import signed, ticks
from coreframe.plots.shapes import WIDTH, Scale, dot, rule, short, svg, text, x_axis


def interval_plot(rows: Sequence[tuple[str, float, float, float]], *, title: str) -> str:
    """Draw a dot and its whisker for each row (label, low, middle, high), with a line at zero."""
    left, right, top, step = 132.0, WIDTH - 66, 12.0, 34.0
    bottom = top + step * len(rows)
    shown = [x for row in rows for x in row[1:]] + [0.0]
    x_ticks = ticks(min(shown), max(shown), 4)
    at_x = Scale(x_ticks[0], x_ticks[-1], left, right)
    parts = [rule(at_x(x), top, at_x(x), bottom, "line") for x in x_ticks]
    parts.append(rule(at_x(0), top, at_x(0), bottom, "ink"))
    for i, (label, low, middle, high) in enumerate(rows):
        y = top + (i + 0.5) * step
        tone = "good" if low > 0 else "bad" if high < 0 else "soft"
        a, b = at_x(low), at_x(high)
        parts += [
            text(left - 12, y + 4, label, "ink", "end"),
            rule(a, y, b, y, tone, width=2.2),
            rule(a, y - 5, a, y + 5, tone, width=2.2),
            rule(b, y - 5, b, y + 5, tone, width=2.2),
            dot(at_x(middle), y, 5, tone),
            text(WIDTH - 2, y + 4, signed(middle), tone, "end", bold=True),
        ]
    parts += x_axis(x_ticks, at_x, bottom, "gain over the base, 95% interval", (left + right) / 2)
    return svg(bottom + 40, title, parts)


def share_bar(better: int, same: int, worse: int) -> str:
    """Draw how many queries got better, stayed and got worse as one bar of 120 by 8 units."""
    total, x, parts = max(better + same + worse, 1), 0.0, []
    for count, tone in ((better, "good"), (same, "line"), (worse, "bad")):
        width = 120 * count / total
        parts.append(
            f'<rect class="{tone}" x="{short(x)}" y="0" width="{short(width)}" height="8" '
            'fill="currentColor"/>'
        )
        x += width
    title = f"{better} better, {same} the same, {worse} worse"
    return svg(8, title, parts, width=120, kind="bar")
