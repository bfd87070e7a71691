"""Points of several classes in a plane, and lines between those that belong together."""

from __future__ import annotations

from collections.abc import Sequence

from coreframe.plots.shapes import WIDTH, Scale, dot, rule, short, svg


def scatter(
    points: Sequence[Sequence[float]],
    *,
    title: str,
    tones: Sequence[str],
    bounds: tuple[float, float, float, float],
    joined: bool = False,
    height: float = 330,
) -> str:
    """Draw points [x, y, class], a tone a class; ``joined`` links the halves of the list.

    ``bounds`` are the least and largest x and y of all maps that are looked at together.
    """
    x1, x2, y1, y2 = bounds
    at_x, at_y = Scale(x1, x2, 10, WIDTH - 10), Scale(y1, y2, height - 10, 10)
    places = [(at_x(x), at_y(y), int(kind)) for x, y, kind in points]
    half = len(places) // 2
    parts = []
    if joined:
        for (a, b, _), (c, d, _) in zip(places[:half], places[half:], strict=True):
            parts.append(rule(a, b, c, d, "line"))
    for x, y, kind in places:
        if kind % 2:  # shapes tell classes apart where colours do not
            parts.append(
                f'<rect class="{tones[kind]}" x="{short(x - 2.6)}" y="{short(y - 2.6)}" '
                'width="5.2" height="5.2" fill="currentColor" fill-opacity="0.8"/>'
            )
        else:
            parts.append(dot(x, y, 3, tones[kind]))
    return svg(height, title, parts)
