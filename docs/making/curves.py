"""Curves: a schedule over a run, a loss over a similarity, a penalty over a parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coreframe import Batch, build
from coreframe.plots import Line, line_chart

TONES = ("accent", "warm", "good", "bad")
STEPS = 100
SIMILARITIES = np.linspace(-1.0, 1.0, 81)


def lines(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> list[Line]:
    return [Line(label, points, tone) for (label, points), tone in zip(curves, TONES, strict=False)]


# Schedules ------------------------------------------------------------------------------------

WARMUP = {"peak": 1.0, "warmup_steps": 10}
STAGES = [
    {"name": f"stage {i}", "duration": 25, "temperature": t}
    for i, t in enumerate((1, 0.5, 0.2, 0.1))
]
SCHEDULES: dict[str, dict[str, dict[str, Any]]] = {
    "competence": {f"power {p}": {"start": 0.05, "power": p} for p in (1, 2, 4)},
    "cosine": {"end 0": {"start": 1.0}, "end 0.2": {"start": 1.0, "end": 0.2}},
    "cosine_warm_restarts": {
        "as it is": {"start": 1.0, "period": 15, "multiplier": 2},
        "height 0.6": {"start": 1.0, "period": 15, "multiplier": 2, "height": 0.6},
    },
    "exponential": {
        "end 0.1": {"start": 1.0, "end": 0.1},
        "end 0.01": {"start": 1.0, "end": 0.01},
    },
    "inverse_sqrt": {"W = 10": WARMUP, "W = 30": {**WARMUP, "warmup_steps": 30}},
    "linear": {
        "a line": {"start": 1.0, "end": 0.0},
        "every 20": {"start": 1.0, "end": 0.0, "every": 20},
    },
    "one_cycle": {
        "cosine": {"peak": 1.0},
        "linear": {"peak": 1.0, "anneal": "linear"},
    },
    "piecewise": {
        how: {"values": (1.0, 0.6, 0.1), "boundaries": (30, 70), "interpolate": how}
        for how in ("constant", "linear", "cosine")
    },
    "polynomial": {f"power {p}": {"start": 1.0, "power": p} for p in (1, 2, 4)},
    "step": {"every 20": {"start": 1.0, "every": 20, "decay": 0.5}},
    "warmup_cosine": {
        "min 0": WARMUP,
        "min 0.2": {**WARMUP, "warmup_steps": 30, "minimum": 0.2},
    },
    "warmup_stable_decay": {
        how: {**WARMUP, "decay_steps": 40, "decay": how} for how in ("linear", "cosine", "sqrt")
    },
}
"""What is drawn of each schedule: fields by the label of the curve."""


def schedule(name: str) -> str:
    """Draw a schedule over a run of 100 steps."""
    if name == "joined":
        pieces = (
            build("schedulers", "linear", start=0.0, end=1.0),
            build("schedulers", "cosine", start=1.0),
        )
        curves = {"": build("schedulers", name, schedulers=pieces, boundaries=(20,))}
    elif name == "stage_value":
        from coreframe_schedulers.curriculum import Curriculum, Stage

        curriculum = Curriculum(stages=tuple(Stage(**fields) for fields in STAGES))
        curves = {"": curriculum.value("temperature")}
    else:
        curves = {label: build("schedulers", name, **f) for label, f in SCHEDULES[name].items()}
    drawn = [
        (label, [(t, float(s.at(t, STEPS))) for t in range(STEPS + 1)])
        for label, s in curves.items()
    ]
    return line_chart(
        lines(drawn), title=f"{name} over a run of {STEPS} steps", x_label="step", height=240
    )


# Losses ---------------------------------------------------------------------------------------

NEGATIVE, POSITIVE = 0.3, 0.6
"""The similarity that stays where the other one moves."""

LOSSES: dict[str, dict[str, Any]] = {
    "contrastive": {},
    "info_nce": {"temperature": 0.1},
    "local_contrastive": {},
    "nca": {"temperature": 0.2},
    "sup_con": {"temperature": 0.1},
    "triplet": {},
}
"""Losses that are drawn over the similarities of a triplet, with their fields."""


def at(similarity: float) -> np.ndarray:
    """Return the vector in the plane whose cosine with (1, 0) is given."""
    return np.array([[similarity, np.sqrt(max(0.0, 1.0 - similarity**2))]])


def over_similarity(name: str) -> str:
    """Draw the loss of one anchor with one positive and one negative."""
    loss, anchor = build("losses", name, **LOSSES[name]), at(1.0)

    def value(positive: float, negative: float) -> float:
        batch = Batch.triplets(anchor, at(positive), at(negative))
        return float(loss.value_and_grad(batch).value)

    return line_chart(
        lines(
            [
                ("positive", [(s, value(s, NEGATIVE)) for s in SIMILARITIES]),
                ("negative", [(s, value(POSITIVE, s)) for s in SIMILARITIES]),
            ]
        ),
        title=f"{name}: the loss as one similarity moves. The positive moves with the negative "
        f"at {NEGATIVE}; the negative moves with the positive at {POSITIVE}",
        x_label="cosine of anchor and positive, or of anchor and negative",
        height=240,
    )


def of_rows(name: str) -> str:
    """Draw a loss of single rows."""
    over: Callable[[Any, float], float]
    label = "cosine of anchor and reference"
    xs = SIMILARITIES
    if name == "cross_entropy":
        curves = {f"smooth {s}": build("losses", name, label_smoothing=s) for s in (0.0, 0.2)}
        label, xs = "logit of the right class, where that of the other is 0", np.linspace(-4, 8, 81)

        def over(loss: Any, x: float) -> float:
            return float(loss(np.array([[x, 0.0]]), labels=np.array([0])).value)
    elif name == "cosine_embedding":
        loss = build("losses", name, margin=0.2)
        curves = {"label 1": (loss, 1), "label \N{MINUS SIGN}1": (loss, -1)}

        def over(loss: Any, x: float) -> float:
            return float(loss[0](at(1.0), at(x), labels=np.array([loss[1]])).value)
    else:
        curves = {"": build("losses", name)}

        def over(loss: Any, x: float) -> float:
            return float(loss(at(1.0), at(x)).value)

    drawn = [(name, [(float(x), over(loss, x)) for x in xs]) for name, loss in curves.items()]
    return line_chart(lines(drawn), title=f"{name} of one row", x_label=label, height=240)


# Regularizers ---------------------------------------------------------------------------------


def penalty(name: str) -> str:
    """Draw the penalty of one parameter."""
    xs = np.linspace(-1.0, 2.0, 61)
    if name == "l2":
        curves = {
            "to 0": build("regularizers", name, strength=1.0),
            "to 1": build("regularizers", name, strength=1.0, center={"p": np.ones(1)}),
        }
        title = "l2: the penalty of one parameter, toward 0 and toward a center at 1"
    else:
        empty = build("regularizers", name, strength=1.0)
        curves = {
            f"F = {f:g}": empty.learned({"p": np.ones(1)}, {"p": np.array([f])})
            for f in (0.1, 0.5, 2.0)
        }
        title = "ewc: the penalty of one parameter that a task left at 1, by its Fisher information"
    drawn = [
        (label, [(float(x), float(r.value_and_grad({"p": np.array([x])}).value)) for x in xs])
        for label, r in curves.items()
    ]
    return line_chart(lines(drawn), title=title, x_label="parameter", height=240)
