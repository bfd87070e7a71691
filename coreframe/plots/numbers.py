"""Numbers as axes and texts show them: round ticks, signs, medians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

MINUS = "\N{MINUS SIGN}"


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


def labels(values: Sequence[float]) -> list[str]:
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    if 0 < step < 1e-4:  # a learning rate
        return [f"{x:.1e}".replace("e-0", "e-").replace("-", MINUS) if x else "0" for x in values]
    digits = next((d for d in range(7) if abs(round(step, d) - step) < 1e-9), 6)
    return [f"{x:,.{digits}f}".replace("-", MINUS) for x in values]


def span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}\N{EN DASH}{high}"
