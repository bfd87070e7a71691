"""How ranks moved: a grid of the rank before and the rank after.

``rank_table`` counts queries into plain data, which a run can store; ``rank_grid`` draws it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from coreframe.plots.numbers import span
from coreframe.plots.shapes import WIDTH, rule, short, svg, text


def rank_table(
    before: Sequence[int], after: Sequence[int], *, largest: int, depth: int = 10
) -> dict[str, Any]:
    """Count how many queries went from which rank (column) to which (row).

    Returns the upper ``edges`` of ranks, their ``labels``, the ``table`` and ``depth``.
    """
    edges = [edge for edge in (1, 3, 5, depth, 20, 50, 100, 1000) if edge < largest] + [largest]
    labels = [span(a + 1, b) for a, b in zip([0, *edges], edges, strict=False)]
    if largest > 100:  # short labels, as columns are narrow
        labels[-1] = ">1000" if largest > 1000 else ">100"
        labels[-2] = "\N{LESS-THAN OR EQUAL TO}1000" if largest > 1000 else labels[-2]
    count = len(edges)
    table = [[0] * count for _ in range(count)]
    for old, new in zip(before, after, strict=True):
        column, row = (min(bisect_left(edges, x), count - 1) for x in (old, new))
        table[row][column] += 1
    return {"edges": edges, "labels": labels, "table": table, "depth": depth}


def rank_grid(found: Mapping[str, Any], *, title: str) -> str:
    """Draw what ``rank_table`` counted; rank 1 is top left.

    Right of the diagonal the right document moved up, left of it down. Lines mark where the list
    of ``depth`` results ends.
    """
    edges, labels, table, depth = (found[key] for key in ("edges", "labels", "table", "depth"))
    count = len(edges)
    most = max(max(row) for row in table) or 1
    left, top = 74.0, 50.0
    size = (WIDTH - left - 12) / count
    deep = min(size, 34.0)
    parts = [
        text(left + count * size / 2, 16, "rank before", "soft", "middle"),
        text(14, top + count * deep / 2, "rank after", "soft", "middle", turned=True),
    ]
    for i, label in enumerate(labels):
        parts.append(text(left + (i + 0.5) * size, top - 9, label, "soft", "middle", small=True))
        parts.append(text(left - 8, top + (i + 0.5) * deep + 4, label, "soft", "end", small=True))
    for row in range(count):
        for column in range(count):
            x, y = left + column * size, top + row * deep
            here = table[row][column]
            tone = "good" if column > row else "bad" if column < row else "soft"
            share = 0.12 + 0.38 * math.sqrt(here / most) if here else 0.04  # ink stays legible
            parts.append(
                f'<rect class="{tone}" x="{short(x + 1)}" y="{short(y + 1)}" '
                f'width="{short(size - 2)}" height="{short(deep - 2)}" rx="3" fill="currentColor" '
                f'fill-opacity="{share:.2f}"/>'
            )
            if here:
                parts.append(text(x + size / 2, y + deep / 2 + 4, f"{here:,}", "ink", "middle"))
    if depth in edges[:-1]:
        inside = edges.index(depth) + 1
        x, y = left + inside * size, top + inside * deep
        parts.append(rule(x, top - 4, x, top + count * deep, "ink", dash="4 3"))
        parts.append(rule(left - 4, y, left + count * size, y, "ink", dash="4 3"))
    return svg(top + count * deep + 8, title, parts)
