"""Lines over one axis: losses, metrics, scheduled values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coreframe.plots.numbers import labels, ticks
from coreframe.plots.shapes import WIDTH, Scale, apart, dot, rule, short, svg, text, x_axis, y_axis


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    points: Sequence[tuple[float, float]]
    tone: str = "accent"
    strong: bool = True


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    level: tuple[float, str] | None = None,
    mark: tuple[float, str] | None = None,
    height: float = 280,
) -> str:
    """Draw lines over a shared axis, a dashed level and a mark at one x; names at the right."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + ([level[0]] if level else [])
    if not xs:
        return ""
    if mark:
        xs.append(mark[0])
    names = [(line.label, line.points[-1][1], line.tone, line.strong) for line in lines]
    if level:
        names.append((level[1], level[0], "ink", False))
    if len(names) < 2:
        names = []
    y_ticks = ticks(min(ys), max(ys))
    left = max(46.0, 16 + 7.2 * max(map(len, labels(y_ticks))))
    right, top, bottom = WIDTH - (82.0 if names else 14.0), 26.0, height - 40.0
    x_ticks = ticks(min(xs), max(xs), 6, whole=True, inside=True)
    at_x = Scale(min(xs), max(xs), left, right)
    at_y = Scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = y_axis(y_ticks, at_y, left, right)
    parts += x_axis(x_ticks, at_x, bottom, x_label, (left + right) / 2)
    if level:
        y = at_y(level[0])
        parts.append(rule(left, y, right, y, "ink", dash="2 4"))
    if mark:
        x = at_x(mark[0])
        parts.append(rule(x, top, x, bottom, "good", dash="5 3"))
        side = "end" if x > (left + right) / 2 else "start"
        parts.append(text(x + (-5 if side == "end" else 5), top - 9, mark[1], "good", side))
    for line in sorted(lines, key=lambda line: line.strong):
        path = " ".join(f"{short(at_x(x))},{short(at_y(y))}" for x, y in line.points)
        thick = 2.4 if line.strong else 1.3
        parts.append(
            f'<polyline class="{line.tone}" points="{path}" fill="none" stroke="currentColor" '
            f'stroke-width="{thick}" stroke-linejoin="round" stroke-linecap="round"/>'
        )
        if line.strong:
            for x, y in line.points:
                kept = mark is not None and x == mark[0]
                if kept or len(line.points) < 12:
                    parts.append(dot(at_x(x), at_y(y), 4.5 if kept else 2.6, line.tone))
    if names:
        ends = apart([at_y(end) for _, end, *_ in names], 14, top, bottom)
        for (label, _, tone, strong), y in zip(names, ends, strict=True):
            parts.append(text(right + 7, y + 4, label, tone, "start", strong))
    return svg(height, title, parts)
