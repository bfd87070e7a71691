"""Several runs side by side, from what they have stored."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from coreframe import plots
from coreframe.callbacks import dotted
from coreframe.errors import ArgumentError
from coreframe.report.figures import TONES, curve
from coreframe.report.page import template


def compare_html(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one page of several runs: names, and what ``read_data`` read of each."""
    if len(runs) < 2:
        raise ArgumentError(f"a comparison needs at least two runs, got {len(runs)}")
    names, found = list(runs), list(runs.values())
    metrics = [m for m in found[0]["metrics"] if all(m in run["kept_gains"] for run in found)]
    gate = {run["gate"]["metric"] for run in found}
    metric = found[0]["gate"]["metric"] if len(gate) == 1 else (metrics or [""])[0]
    tests = {_test_of(run) for run in found}
    return template("compare.html").render(
        names=names,
        runs=found,
        metrics=metrics,
        metric=metric,
        one_test=len(tests) == 1,
        one_gate=len(gate) == 1,
        best=_best(found, metrics),
        settings=different([run["config_text"] for run in found]),
        health=[run["health"].get("adapted", {}) for run in found],
        figures=_figures(names, found, metric),
    )


def different(texts: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """Return the settings in which runs differ, by dotted name, with their values or None."""
    flat = [dotted(tomllib.loads(text)) for text in texts]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, [one.get(key) for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if any(x != values[0] for x in values)]


def _test_of(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what runs that were asked the same test queries have in common."""
    inputs = run["environment"].get("inputs") or {}
    base = tuple(sorted((m, g["base"]) for m, g in run["kept_gains"].items()))
    return (*run["data"]["test"][:3], tuple(sorted(inputs.values())), base)


def _best(runs: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, float]:
    return {m: max(run["kept_gains"][m]["adapted"] for run in runs) for m in metrics}


def _figures(
    names: Sequence[str], runs: Sequence[Mapping[str, Any]], metric: str
) -> dict[str, str]:
    tones = [TONES[i % len(TONES)] for i in range(len(runs))]
    found = {"gains": "", "dev": "", "loss": ""}
    if metric:
        rows = [(n, run["kept_gains"][metric]) for n, run in zip(names, runs, strict=True)]
        found["gains"] = plots.interval_plot(
            [(name[:16], g["low"], g["gain"], g["high"]) for name, g in rows],
            title=f"Gain of each run over its base in {metric}, with 95% intervals",
        )
    for key, name in (("dev", metric), ("loss", "loss")):
        lines = [
            plots.Line(label[:10], curve(run["history"], name), tone)
            for label, run, tone in zip(names, runs, tones, strict=True)
        ]
        found[key] = plots.line_chart(
            [line for line in lines if line.points],
            title=f"{name} of each run over the steps",
            x_label="step",
        )
    return found
