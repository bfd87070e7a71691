"""The figures of a report, from what a run has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coreframe import plots

PLACES = ("step", "epoch")
TONES = ("accent", "warm", "good", "bad", "violet", "pink", "soft")
"""The colours of classes, in their order."""


def figures(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return every figure by name: SVG, or an empty text where there is nothing to draw."""
    metric, label = data["gate"]["metric"], data["shown"]["label"]
    return {
        "gains": plots.interval_plot(
            [(m, g["low"], g["gain"], g["high"]) for m, g in data["gains"].items()],
            title=f"Gain of {label} over the base in each metric, with 95% intervals",
        ),
        "candidates": plots.interval_plot(
            [(c["label"], *c["gain"]) for c in data["candidates"] if c["name"] != "identity"],
            title=f"Gain of each candidate over the base in {metric}, with 95% intervals",
        ),
        **_training(data),
        "scheduled": _scheduled(data),
        "scores": plots.histograms(
            data["scores"],
            title="Cosine of right documents and of hardest negatives, before and after",
            x_label="cosine with the query",
        ),
        "ranks": plots.rank_grid(
            data["ranks"], title="Rank of the first right document before and after"
        ),
        "curve": plots.whisker_chart(
            [
                (p["pairs"], p["gain"]["low"], p["gain"]["gain"], p["gain"]["high"])
                for p in data["curve"]
            ],
            title=f"Gain in {metric} by the number of training pairs, with 95% intervals",
            x_label=f"training pairs; gain in {metric}, 95% interval",
        ),
        "maps": _maps(data),
    }


def _training(data: Mapping[str, Any]) -> dict[str, str]:
    metric, history, best = data["gate"]["metric"], data["history"], data["best_epoch"]
    evaluated = [entry for entry in history if entry.get(metric) is not None]
    kept_step = next((e["step"] for e in evaluated if e["epoch"] == best), None)
    note = f"kept: epoch {best}"
    losses = curve(history, "loss")
    norms = curve(history, "grad_norm")
    base = next(c["dev"] for c in data["candidates"] if c["name"] == "identity")
    several = len({entry["epoch"] for entry in evaluated}) < len(evaluated)
    place = "step" if several else "epoch"
    mark = None if kept_step is None else ((kept_step if several else best), note)
    return {
        "loss": plots.line_chart(
            [plots.Line("loss", losses, "warm")],
            title="Training loss over the steps",
            x_label="step",
            mark=None if kept_step is None or not losses else (kept_step, note),
        ),
        "grad_norm": plots.line_chart(
            [plots.Line("norm", norms, "soft")],
            title="Norm of the gradient over the steps",
            x_label="step",
            height=210,
        ),
        "dev": plots.line_chart(
            [
                plots.Line(
                    m,
                    [(e[place], e[m]) for e in evaluated if e.get(m) is not None],
                    "accent" if m == metric else "soft",
                    m == metric,
                )
                for m in data["metrics"]
                if any(e.get(m) is not None for e in evaluated)
            ],
            title="Metrics on the dev queries after each evaluation",
            x_label=place,
            level=(base, "base"),
            mark=mark,
        ),
    }


def scheduled_names(data: Mapping[str, Any]) -> list[str]:
    """Return what was scheduled: all that a line of the training has beside loss and norm."""
    train = [entry for entry in data["history"] if "loss" in entry]
    names = {name: None for entry in train for name in entry}
    return [name for name in names if name not in (*PLACES, "loss", "grad_norm")]


def _scheduled(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and the curve of each scheduled value; constant ones have no curve."""
    found = []
    for name in scheduled_names(data):
        points = curve(data["history"], name)
        if len({y for _, y in points}) > 1:
            chart = plots.line_chart(
                [plots.Line(name, points)], title=f"{name} over the steps", x_label="step",
                height=210,
            )  # fmt: skip
            found.append((name, chart))
    return found


def constants(data: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the values that did not change in the run, by name."""
    found = []
    for name in scheduled_names(data):
        values = {y for _, y in curve(data["history"], name)}
        if len(values) == 1:
            found.append((name, values.pop()))
    return found


def _maps(data: Mapping[str, Any]) -> list[str]:
    """Return the map before and the map after, in one frame."""
    found = data["map"]
    if not found:
        return []
    xs, ys = ([p[i] for panel in found["panels"] for p in panel] for i in (0, 1))
    tones = [*TONES[: len(found["classes"]) - 1], "soft"]
    if found["joined"]:
        tones = ["accent", "warm"]
    return [
        plots.scatter(
            panel,
            title=f"A sample of the test vectors in two dimensions, {when}",
            tones=tones,
            bounds=(min(xs), max(xs), min(ys), max(ys)),
            joined=found["joined"],
        )
        for panel, when in zip(found["panels"], ("before", "after"), strict=True)
    ]


def map_tones(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, tone and mark of each class of the map, for its legend."""
    names: Sequence[str] = data["map"].get("classes", [])
    tones = [*TONES[: max(len(names) - 1, 0)], "soft"]
    if data["map"].get("joined"):
        tones = ["accent", "warm"]
    marks = ("\N{BLACK CIRCLE}", "\N{BLACK SQUARE}")
    return [(name, tones[i], marks[i % 2]) for i, name in enumerate(names)]


def curve(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return (step, value) of one name, without what was not finite."""
    return [(e["step"], e[name]) for e in history if e.get(name) is not None]
