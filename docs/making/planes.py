"""Pictures in the plane: what a miner chooses, how an optimizer walks, what an adapter does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from coreframe import Batch, build
from coreframe.plots.shapes import WIDTH, dot, rule, short, svg, text

DRAWS = 100
"""Draws of a miner that chooses by chance: a dot grows with how often it is chosen."""


def ring(x: float, y: float, radius: float, tone: str, *, width: float = 1.2) -> str:
    return (
        f'<circle class="{tone}" cx="{short(x)}" cy="{short(y)}" r="{short(radius)}" fill="none" '
        f'stroke="currentColor" stroke-width="{width}"/>'
    )


def path(points: list[tuple[float, float]], tone: str) -> str:
    joined = " ".join(f"{short(x)},{short(y)}" for x, y in points)
    return (
        f'<polyline class="{tone}" points="{joined}" fill="none" stroke="currentColor" '
        'stroke-width="1.6"/>'
    )


def legend(entries: list[tuple[str, str]], y: float) -> list[str]:
    """Return names with a mark each, at the right: ``dot`` or ``ring`` of a tone, by tone."""
    parts = []
    for i, (tone, words) in enumerate(entries):
        mark = ring if tone == "soft" else None
        at = y + 22 * i
        parts.append(mark(300, at - 4, 4, tone) if mark else dot(300, at - 4, 4.5, tone))
        parts.append(text(312, at, words, "ink", "start", small=True))
    return parts


# Miners ---------------------------------------------------------------------------------------

MINERS: dict[str, dict[str, Any]] = {
    "distance_weighted": {"k": 3},
    "hardest": {"k": 3},
    "in_batch": {"threshold": 0.9},
    "random": {"k": 3},
    "semi_hard": {"k": 3, "margin": 0.3, "fill": "none"},
    "softmax_weighted": {"k": 3, "temperature": 0.2},
}
"""The fields that each miner is drawn with."""

ANGLES = [8, 20, 32, 46, 58, 75, 95, 118, 140, 165, -14, -27, -48, -66, -88, -110, -135, -160]
"""Where the candidates stand on the unit circle, in degrees from the anchor."""
POSITIVE = 38


def place(angle: float, radius: float = 108) -> tuple[float, float]:
    """Return where an angle from the anchor, which is at the top, stands in the drawing."""
    return 150 + radius * math.sin(math.radians(angle)), 135 - radius * math.cos(
        math.radians(angle)
    )


def choice(name: str) -> str:
    """Draw how often each candidate on the unit circle is chosen as a negative."""
    unit = np.stack(
        [np.cos(np.radians([POSITIVE, *ANGLES])), np.sin(np.radians([POSITIVE, *ANGLES]))], 1
    )
    anchor = np.array([[1.0, 0.0]])
    miner = build("miners", name, **MINERS[name])
    counts = np.zeros(len(ANGLES))
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        batch = Batch.pairs(np.concatenate([anchor, unit[1:]]), unit, ids=np.arange(len(unit)))
        relation = miner.mine(batch, rng=rng)
        _, negative = relation.tile(slice(0, 1), slice(1, len(unit)), np, None)
        counts += negative[0]
    often = counts / DRAWS
    chance = bool(np.any((often > 0) & (often < 1)))
    parts = [ring(150, 135, 108, "line", width=1), rule(150, 135, *place(0), "line")]
    for angle, share in zip(ANGLES, often, strict=True):
        x, y = place(angle)
        parts.append(ring(x, y, 4, "soft"))
        if share > 0:
            parts.append(dot(x, y, float(short(2 + 5 * math.sqrt(share))), "warm"))
    parts += [dot(*place(POSITIVE), 5, "good"), dot(*place(0), 5, "accent")]
    chosen = "chosen; larger: more often" if chance else "chosen"
    entries = [
        ("accent", "anchor"),
        ("good", "its positive"),
        ("soft", "candidate"),
        ("warm", chosen),
    ]
    fields = ", ".join(f"{key}={value}" for key, value in MINERS[name].items())
    parts += legend(entries, 105)
    return svg(270, f"{name}({fields}): which candidates on the unit circle are chosen", parts)


# Optimizers -----------------------------------------------------------------------------------

OPTIMIZERS: dict[str, dict[str, dict[str, Any]]] = {
    "adam": {"adam": {"learning_rate": 0.2}},
    "adamw": {
        "adamw": {"learning_rate": 0.2, "weight_decay": 0.0},
        "weight_decay 0.3": {"learning_rate": 0.2, "weight_decay": 0.3},
    },
    "sgd": {
        "momentum 0": {"learning_rate": 0.09},
        "momentum 0.8": {"learning_rate": 0.03, "momentum": 0.8},
    },
}
CURVATURE = np.array([1.0, 20.0])
CENTRE = np.array([2.0, 0.5])


def walk(name: str) -> str:
    """Draw the way of an optimizer down a narrow valley, 40 updates long."""
    width, height = WIDTH, 230.0

    def spot(p: Any) -> tuple[float, float]:
        return 60 + (p[0] + 3.2) * 52, height / 2 - (p[1] - 0.3) * 52

    parts = []
    x, y = spot(CENTRE)
    for level in (0.5, 2.0, 4.5, 8.0, 12.5):
        a, b = (52 * math.sqrt(2 * level / c) for c in CURVATURE)
        parts.append(
            f'<ellipse class="line" cx="{short(x)}" cy="{short(y)}" rx="{short(a)}" '
            f'ry="{short(b)}" fill="none" stroke="currentColor"/>'
        )
    ways = []
    for tone, (label, fields) in zip(("accent", "warm"), OPTIMIZERS[name].items(), strict=False):
        optimizer = build("optimizers", name, **fields)
        params = {"p": np.array([-2.5, 1.6])}
        state = optimizer.init(params)
        points = [spot(params["p"])]
        for _ in range(40):
            slope = {"p": CURVATURE * (params["p"] - CENTRE)}
            params, state = optimizer.update(params, slope, state)
            points.append(spot(params["p"]))
        ways.append((tone, label, points))
    for i, (tone, label, points) in enumerate(ways):
        parts.append(path(points, tone))
        parts += [dot(*point, 2.2, tone) for point in points]
        parts.append(text(width - 8, 20 + 16 * i, label, tone, "end", True))
    parts.append(ring(x, y, 5, "ink"))
    title = f"{name}: 40 updates down a valley that is twenty times as steep across as along"
    return svg(height, title, parts)


# Adapters -------------------------------------------------------------------------------------


def moved(name: str) -> str:
    """Draw queries and documents before and after an adapter in closed form."""
    rng = np.random.default_rng(4)
    documents = rng.normal(size=(24, 2)) @ np.array([[1.0, 0.5], [0.0, 0.35]])
    turn = np.array([[0.5, 0.866], [-0.866, 0.5]]) if name == "procrustes" else np.eye(2)
    queries = (
        documents @ turn + 0.06 * rng.normal(size=(24, 2)) + (0.5 if name == "procrustes" else 0.0)
    )
    adapter = build("adapters", name)
    params = adapter.solve(queries, documents)
    alone = np.eye(2), np.zeros(2)
    after = [adapter.matrix(params), alone if name == "procrustes" else adapter.matrix(params)]
    sides = [queries, documents]
    parts = [rule(230, 12, 230, 218, "line")]
    for left, maps, words in ((0, None, "before"), (230, after, "after")):
        spread = [s if maps is None else s @ maps[i][0] + maps[i][1] for i, s in enumerate(sides)]
        places = [[(left + 115 + 34 * x, 122 - 34 * y) for x, y in points] for points in spread]
        if name == "procrustes":
            parts += [rule(*a, *b, "line") for a, b in zip(*places, strict=True)]
        for tone, points in zip(("warm", "accent"), places, strict=True):
            parts += [dot(*point, 2.6, tone) for point in points]
        parts.append(text(left + 115, 14, words, "soft", "middle"))
    parts += [
        text(60, 222, "queries", "warm", "middle"),
        text(150, 222, "documents", "accent", "middle"),
    ]
    return svg(230, f"{name}: queries and documents before and after", parts)
