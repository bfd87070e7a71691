"""The shapes that plots are drawn of: scales, texts, rules, dots, axes, the SVG around them.

Colours are classes (``ink soft line accent warm good bad``) that set ``color`` in the page's style
sheet, so one plot serves light, dark and print. A drawing is 460 units wide, which is legible both
on a phone and in half of a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from coreframe.plots.numbers import labels

WIDTH = 460.0


class Scale:
    """A straight map of a range of numbers to a range of the drawing."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.factor = (end - start) / (high - low) if high > low else 0.0
        self.flat = (start + end) / 2

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.factor if self.factor else self.flat


def short(value: float) -> str:
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def svg(
    height: float, title: str, parts: Iterable[str], *, width: float = WIDTH, kind: str = "plot"
) -> str:
    name = escape(title)
    return (
        f'<svg class="{kind}" viewBox="0 0 {short(width)} {short(height)}" role="img" '
        f'aria-label="{name}"><title>{name}</title>{"".join(parts)}</svg>'
    )


def text(
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
    kind = f"{tone} small" if small else tone
    look = f'font-size="{10.5 if small else 12}"' + (' font-weight="600"' if bold else "")
    turn = f' transform="rotate(-90 {short(x)} {short(y)})"' if turned else ""
    return (
        f'<text class="{kind}" x="{short(x)}" y="{short(y)}" text-anchor="{anchor}" '
        f'fill="currentColor" {look}{turn}>{escape(text)}</text>'
    )


def rule(
    x1: float, y1: float, x2: float, y2: float, tone: str, *, dash: str = "", width: float = 1
) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line class="{tone}" x1="{short(x1)}" y1="{short(y1)}" x2="{short(x2)}" y2="{short(y2)}" '
        f'stroke="currentColor" stroke-width="{width}"{dashes}/>'
    )


def dot(x: float, y: float, radius: float, tone: str) -> str:
    return (
        f'<circle class="{tone}" cx="{short(x)}" cy="{short(y)}" r="{radius}" fill="currentColor"/>'
    )


def y_axis(values: Sequence[float], at: Scale, left: float, right: float) -> list[str]:
    parts = []
    for value, label in zip(values, labels(values), strict=True):
        parts.append(rule(left, at(value), right, at(value), "line"))
        parts.append(text(left - 8, at(value) + 4, label, "soft", "end"))
    return parts


def x_axis(
    values: Sequence[float], at: Scale, bottom: float, label: str, middle: float
) -> list[str]:
    parts = [text(middle, bottom + 34, label, "soft", "middle")]
    for value, name in zip(values, labels(values), strict=True):
        parts.append(rule(at(value), bottom, at(value), bottom + 4, "soft"))
        parts.append(text(at(value), bottom + 18, name, "soft", "middle"))
    return parts


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
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
