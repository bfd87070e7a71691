"""Time and memory against n, on logarithmic axes, as an SVG file of its own.

The shapes are those of ``coreframe.plots``; the file brings its own style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from coreframe.plots import shapes

TONES = ("accent", "warm", "good", "bad", "purple", "teal", "soft")
STYLE = """
text { font-family: system-ui, sans-serif; }
.ink { color: #1a1d21 } .soft { color: #5d6570 } .line { color: #dfe2e6 } .accent { color: #2458c6 }
.warm { color: #b65c00 } .good { color: #0b7a66 } .bad { color: #c0391f } .purple { color: #7a3fb0 }
.teal { color: #1c7f99 } .page { color: #fff }
@media (prefers-color-scheme: dark) {
.ink { color: #e7e9ec } .soft { color: #9ba3ae } .line { color: #323741 } .accent { color: #7fabff }
.warm { color: #f2a950 } .good { color: #4ac8ac } .bad { color: #ff8168 }
.purple { color: #c094ee } .teal { color: #5cc3dd } .page { color: #131519 } }
"""
HEIGHT, NAMES = 250.0, 170.0

Points = Sequence[tuple[float, float]]


def drawing(group: Mapping[str, Any]) -> str:
    """Return both panels of a group, one below the other."""
    lines = group["lines"]
    time = {k: [(p["n"], p["time"]) for p in line] for k, line in lines.items()}
    extra = {
        k: [(p["n"], max(p["extra"] / 2**20, 1.0)) for p in line if p["extra"] is not None]
        for k, line in lines.items()
    }
    first = min(p["n"] for line in lines.values() for p in line)
    parts = _panel(time, 0, f"time, coreframe at n = {first:,} is 1", "times as long")
    parts += _panel(extra, HEIGHT, "extra memory, less than 1 MiB shown as 1", "MiB")
    title = f"{group['what']}: time and memory against n"
    picture = shapes.svg(2 * HEIGHT, title, parts, width=shapes.WIDTH + NAMES)
    style = '<rect class="page" width="100%" height="100%" fill="currentColor"/>'
    opened, _, rest = picture.partition("</title>")
    opened = opened.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{opened}</title><style>{STYLE}</style>{style}{rest}\n"


def _panel(lines: Mapping[str, Points], top: float, title: str, unit: str) -> list[str]:
    points = [point for line in lines.values() for point in line]
    if not points:
        return []
    left, right = 62.0, shapes.WIDTH
    high, low = top + 34, top + HEIGHT - 42
    x_values = sorted({x for x, _ in points})
    y_values = decades([y for _, y in points])
    at_x = shapes.Scale(math.log(x_values[0]), math.log(x_values[-1]), left + 8, right)
    at_y = shapes.Scale(math.log(y_values[0]), math.log(y_values[-1]), low, high)
    parts = [shapes.text(left, top + 18, title, "ink", "start", bold=True)]
    for y in y_values:
        here = at_y(math.log(y))
        parts.append(shapes.rule(left, here, right, here, "line"))
        parts.append(shapes.text(left - 6, here + 4, f"{y:,g}", "soft", "end", small=True))
    for x in x_values:
        here = at_x(math.log(x))
        parts.append(shapes.text(here, low + 16, f"{x:,g}", "soft", "middle", small=True))
    parts.append(shapes.text((left + right) / 2, low + 32, "n", "soft", "middle", small=True))
    parts.append(shapes.text(14, (high + low) / 2, unit, "soft", "middle", turned=True))
    names = []
    for number, (name, line) in enumerate(lines.items()):
        tone, places = (
            TONES[number % len(TONES)],
            [(at_x(math.log(x)), at_y(math.log(y))) for x, y in line],
        )
        if not places:
            continue
        path = " ".join(f"{shapes.short(x)},{shapes.short(y)}" for x, y in places)
        thick = 2.6 if number == 0 else 1.4
        parts.append(
            f'<polyline class="{tone}" points="{path}" fill="none" stroke="currentColor" '
            f'stroke-width="{thick}" stroke-linejoin="round"/>'
        )
        parts += [shapes.dot(x, y, 2.6, tone) for x, y in places]
        names.append((name, places[-1][1], tone, number == 0))
    ends = shapes.apart([y for _, y, *_ in names], 14, high, low)
    for (name, _, tone, strong), y in zip(names, ends, strict=True):
        parts.append(shapes.text(right + 9, y + 4, name, tone, "start", strong))
    return parts


def decades(values: Sequence[float]) -> list[float]:
    """Return powers of ten, or of two where there would be few, that cover the values."""
    low, high = min(values), max(values)
    for base in (10.0, 4.0, 2.0):
        first = math.floor(math.log(low, base) + 1e-9)
        last = math.ceil(math.log(high, base) - 1e-9)
        if last - first >= 3 or base == 2.0:
            break
    return [base**power for power in range(first, max(last, first + 1) + 1)]
