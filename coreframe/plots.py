"""Plots as inline SVG: plain functions from numbers to text, without a plotting library.

Colours are classes (``ink soft line accent warm good bad``) that set ``color`` in the page's style
sheet, so one plot serves light, dark and print. The drawing is 460 units wide, which is legible
both on a phone and in half of a page.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH = 460.0
MINUS = "\N{MINUS SIGN}"


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
    left = max(46.0, 16 + 7.2 * max(map(len, _labels(y_ticks))))
    right, top, bottom = WIDTH - (72.0 if names else 14.0), 26.0, height - 40.0
    x_ticks = ticks(min(xs), max(xs), 6, whole=True, inside=True)
    at_x = _scale(min(xs), max(xs), left, right)
    at_y = _scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = _y_axis(y_ticks, at_y, left, right)
    parts += _x_axis(x_ticks, at_x, bottom, x_label, (left + right) / 2)
    if level:
        y = at_y(level[0])
        parts.append(_rule(left, y, right, y, "ink", dash="2 4"))
    if mark:
        x = at_x(mark[0])
        parts.append(_rule(x, top, x, bottom, "good", dash="5 3"))
        side = "end" if x > (left + right) / 2 else "start"
        parts.append(_text(x + (-5 if side == "end" else 5), top - 9, mark[1], "good", side))
    for line in sorted(lines, key=lambda line: line.strong):
        path = " ".join(f"{_n(at_x(x))},{_n(at_y(y))}" for x, y in line.points)
        thick = 2.4 if line.strong else 1.3
        parts.append(
            f'<polyline class="{line.tone}" points="{path}" fill="none" stroke="currentColor" '
            f'stroke-width="{thick}" stroke-linejoin="round" stroke-linecap="round"/>'
        )
        if line.strong:
            for x, y in line.points:
                kept = mark is not None and x == mark[0]
                if kept or len(line.points) < 12:
                    parts.append(_dot(at_x(x), at_y(y), 4.5 if kept else 2.6, line.tone))
    if names:
        ends = _apart([at_y(end) for _, end, *_ in names], 14, top, bottom)
        for (label, _, tone, strong), y in zip(names, ends, strict=True):
            parts.append(_text(right + 7, y + 4, label, tone, "start", strong))
    return _svg(height, title, parts)


def histograms(
    panels: Sequence[tuple[str, Sequence[tuple[str, str, Sequence[float]]]]],
    *,
    title: str,
    x_label: str,
    bins: int = 40,
    panel_height: float = 158,
) -> str:
    """Draw panels one below the other, over one axis; each overlays series (label, tone, values).

    A series' median is a line through its panel.
    """
    every = [value for _, series in panels for _, _, values in series for value in values]
    if not every:
        return ""
    left, right = 14.0, WIDTH - 14
    low, high = min(every), max(every)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    x_ticks = ticks(low, high, 6, inside=True)
    at_x = _scale(low, high, left, right)
    parts: list[str] = []
    counted = [
        [(label, tone, values, _counts(values, low, high, bins)) for label, tone, values in series]
        for _, series in panels
    ]
    most = max(max(c) for series in counted for *_, c in series)
    bottom = 0.0
    for i, ((name, _), series) in enumerate(zip(panels, counted, strict=True)):
        top = i * panel_height + 46
        bottom = top + panel_height - 54
        parts.append(_text(left, top - 28, name, "ink", "start", bold=True))
        parts.append(_rule(left, bottom, right, bottom, "line"))
        at_y = _scale(0, most, bottom, top)
        for row, (label, tone, values, counts) in enumerate(series):
            parts.append(_area(counts, low, high, at_x, at_y, tone))
            middle = at_x(median(values))
            parts.append(_rule(middle, top - 8, middle, bottom, tone, dash="4 3"))
            note = f"{label}, median {fixed(median(values), 2)}"
            parts.append(_text(right, top - 28 + 14 * row, note, tone, "end"))
    parts += _x_axis(x_ticks, at_x, bottom, x_label, (left + right) / 2)
    return _svg(bottom + 40, title, parts)


def rank_grid(
    before: Sequence[int], after: Sequence[int], *, title: str, largest: int, depth: int = 10
) -> str:
    """Draw how many queries went from which rank (column) to which (row); 1 is top left.

    Right of the diagonal the right document moved up, left of it down. Lines mark where the list
    of ``depth`` results ends.
    """
    edges = [edge for edge in (1, 3, 5, depth, 20, 50, 100, 1000) if edge < largest] + [largest]
    labels = [_span(a + 1, b) for a, b in zip([0, *edges], edges, strict=False)]
    if largest > 100:  # short labels, as columns are narrow
        labels[-1] = ">1000" if largest > 1000 else ">100"
        labels[-2] = "\N{LESS-THAN OR EQUAL TO}1000" if largest > 1000 else labels[-2]
    count = len(edges)
    table = [[0] * count for _ in range(count)]
    for old, new in zip(before, after, strict=True):
        column, row = (min(bisect_left(edges, x), count - 1) for x in (old, new))
        table[row][column] += 1
    most = max(max(row) for row in table) or 1
    left, top = 74.0, 50.0
    size = (WIDTH - left - 12) / count
    deep = min(size, 34.0)
    parts = [
        _text(left + count * size / 2, 16, "rank before", "soft", "middle"),
        _text(14, top + count * deep / 2, "rank after", "soft", "middle", turned=True),
    ]
    for i, label in enumerate(labels):
        parts.append(_text(left + (i + 0.5) * size, top - 9, label, "soft", "middle", small=True))
        parts.append(_text(left - 8, top + (i + 0.5) * deep + 4, label, "soft", "end", small=True))
    for row in range(count):
        for column in range(count):
            x, y = left + column * size, top + row * deep
            found = table[row][column]
            tone = "good" if column > row else "bad" if column < row else "soft"
            share = 0.16 + 0.84 * math.sqrt(found / most) if found else 0.04
            parts.append(
                f'<rect class="{tone}" x="{_n(x + 1)}" y="{_n(y + 1)}" width="{_n(size - 2)}" '
                f'height="{_n(deep - 2)}" rx="3" fill="currentColor" fill-opacity="{share:.2f}"/>'
            )
            if found:
                tone = "page" if share > 0.6 else "ink"
                parts.append(_text(x + size / 2, y + deep / 2 + 4, f"{found:,}", tone, "middle"))
    if depth in edges[:-1]:
        inside = edges.index(depth) + 1
        x, y = left + inside * size, top + inside * deep
        parts.append(_rule(x, top - 4, x, top + count * deep, "ink", dash="4 3"))
        parts.append(_rule(left - 4, y, left + count * size, y, "ink", dash="4 3"))
    return _svg(top + count * deep + 8, title, parts)


def interval_plot(rows: Sequence[tuple[str, float, float, float]], *, title: str) -> str:
    """Draw a dot and its whisker for each row (label, low, middle, high), with a line at zero."""
    left, right, top, step = 118.0, WIDTH - 64, 12.0, 34.0
    bottom = top + step * len(rows)
    shown = [x for row in rows for x in row[1:]] + [0.0]
    x_ticks = ticks(min(shown), max(shown), 4)
    at_x = _scale(x_ticks[0], x_ticks[-1], left, right)
    parts = [_rule(at_x(x), top, at_x(x), bottom, "line") for x in x_ticks]
    parts.append(_rule(at_x(0), top, at_x(0), bottom, "ink"))
    for i, (label, low, middle, high) in enumerate(rows):
        y = top + (i + 0.5) * step
        tone = "good" if low > 0 else "bad" if high < 0 else "soft"
        a, b = at_x(low), at_x(high)
        parts += [
            _text(left - 12, y + 4, label, "ink", "end"),
            _rule(a, y, b, y, tone, width=2.2),
            _rule(a, y - 5, a, y + 5, tone, width=2.2),
            _rule(b, y - 5, b, y + 5, tone, width=2.2),
            _dot(at_x(middle), y, 5, tone),
            _text(WIDTH - 2, y + 4, signed(middle), tone, "end", bold=True),
        ]
    parts += _x_axis(x_ticks, at_x, bottom, "gain over the base, 95% interval", (left + right) / 2)
    return _svg(bottom + 40, title, parts)


def share_bar(better: int, same: int, worse: int) -> str:
    """Draw how many queries got better, stayed and got worse as one bar of 120 by 8 units."""
    total, x, parts = max(better + same + worse, 1), 0.0, []
    for count, tone in ((better, "good"), (same, "line"), (worse, "bad")):
        width = 120 * count / total
        parts.append(
            f'<rect class="{tone}" x="{_n(x)}" y="0" width="{_n(width)}" height="8" '
            'fill="currentColor"/>'
        )
        x += width
    title = f"{better} better, {same} the same, {worse} worse"
    return _svg(8, title, parts, width=120, kind="bar")


# Numbers --------------------------------------------------------------------------------------


def ticks(
    low: float, high: float, count: int = 5, *, whole: bool = False, inside: bool = False
) -> list[float]:
    """Return round numbers, about ``count``, that cover the range, or lie inside of it."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    values = [round(i * step, 12) for i in range(first, last + 1)]
    return [x for x in values if low <= x <= high] if inside else values


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    if not ordered:
        return math.nan
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def fixed(value: float, digits: int = 3) -> str:
    """Return a number to so many digits, with a proper minus sign."""
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign: +0.084, or 0.000 for what rounds to nothing."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else MINUS) + text


def _labels(values: Sequence[float]) -> list[str]:
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    digits = next((d for d in range(7) if abs(round(step, d) - step) < 1e-9), 6)
    return [f"{x:,.{digits}f}".replace("-", MINUS) for x in values]


def _counts(values: Iterable[float], low: float, high: float, bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(max(int((value - low) / (high - low) * bins), 0), bins - 1)] += 1
    return counts


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}\N{EN DASH}{high}"


def _apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart, in their order, so that none covers another."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, i in zip([None, *order], order, strict=False):
        floor = low if before is None else moved[before] + gap
        moved[i] = max(moved[i], floor)
    ceiling = high
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


# Shapes ---------------------------------------------------------------------------------------


class _scale:  # noqa: N801 - used as a function
    """A straight map of a range of numbers to a range of the drawing."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.factor = (end - start) / (high - low) if high > low else 0.0
        self.flat = (start + end) / 2

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.factor if self.factor else self.flat


def _n(value: float) -> str:
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _svg(
    height: float, title: str, parts: Iterable[str], *, width: float = WIDTH, kind: str = "plot"
) -> str:
    name = escape(title)
    return (
        f'<svg class="{kind}" viewBox="0 0 {_n(width)} {_n(height)}" role="img" '
        f'aria-label="{name}"><title>{name}</title>{"".join(parts)}</svg>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    tone: str,
    anchor: str,
    bold: bool = False,
    *,
    small: bool = False,
    turned: bool = False,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    turn = f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turned else ""
    return (
        f'<text class="{tone}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" fill="currentColor" '
        f'font-size="{10.5 if small else 12}"{weight}{turn}>{escape(text)}</text>'
    )


def _rule(
    x1: float, y1: float, x2: float, y2: float, tone: str, *, dash: str = "", width: float = 1
) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line class="{tone}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" '
        f'stroke="currentColor" stroke-width="{width}"{dashes}/>'
    )


def _dot(x: float, y: float, radius: float, tone: str) -> str:
    return f'<circle class="{tone}" cx="{_n(x)}" cy="{_n(y)}" r="{radius}" fill="currentColor"/>'


def _area(
    counts: Sequence[int], low: float, high: float, at_x: _scale, at_y: _scale, tone: str
) -> str:
    width = (high - low) / len(counts)
    path = f"M{_n(at_x(low))} {_n(at_y(0))}"
    for i, count in enumerate(counts):
        path += f"V{_n(at_y(count))}H{_n(at_x(low + (i + 1) * width))}"
    return (
        f'<path class="{tone}" d="{path}V{_n(at_y(0))}Z" fill="currentColor" fill-opacity="0.28" '
        'stroke="currentColor" stroke-width="1.2"/>'
    )


def _y_axis(values: Sequence[float], at: _scale, left: float, right: float) -> list[str]:
    parts = []
    for value, label in zip(values, _labels(values), strict=True):
        parts.append(_rule(left, at(value), right, at(value), "line"))
        parts.append(_text(left - 8, at(value) + 4, label, "soft", "end"))
    return parts


def _x_axis(
    values: Sequence[float], at: _scale, bottom: float, label: str, middle: float
) -> list[str]:
    parts = [_text(middle, bottom + 34, label, "soft", "middle")]
    for value, name in zip(values, _labels(values), strict=True):
        parts.append(_rule(at(value), bottom, at(value), bottom + 4, "soft"))
        parts.append(_text(at(value), bottom + 18, name, "soft", "middle"))
    return parts
