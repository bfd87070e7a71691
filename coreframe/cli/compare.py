"""``compare``: whether one run is proven better than another, on the same queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreframe.cli.common import NOT_BETTER
from coreframe.cli.evaluate import (
    FILE,
    config_of,
    data_options,
    metrics_of,
    pairs_of,
    print_table,
    read_json,
    summary,
    warn_if_seen,
)
from coreframe.errors import ArgumentError, ArtefactError, DataError

if TYPE_CHECKING:
    from coreframe.config import GateSettings, RunConfig
    from coreframe.evaluation.compare import Comparison, Gain
    from coreframe.evaluation.retrieval import Evaluation
    from coreframe.gate import Gate

WORST = 10
LONGEST = 72


@click.command()
@click.argument("first", metavar="RUN", type=FILE)
@click.argument("second", metavar="RUN", type=FILE)
@click.option(
    "--data",
    multiple=True,
    type=FILE,
    help="Measure both on this data; else on the test queries that they share.",
)
@click.option("--minimum-gain", type=float, default=0.0, help="What the gain must exceed.")
@data_options
def compare(
    first: Path, second: Path, data: tuple[Path, ...], minimum_gain: float, **options: Any
) -> int:
    """Say whether the second RUN is proven better than the first, on the same queries.

    What is compared is what each run stores: the identity, where it promoted nothing. Exit code 0:
    the second is proven better; 3: it is not.
    """
    from coreframe import outputs
    from coreframe.config import GateSettings
    from coreframe.evaluation.compare import paired
    from coreframe.gate import Evidence, decide

    configs = [config_of(run, options) for run in (first, second)]
    metric, names = metrics_of(configs[::-1], options)
    if data:
        found, groups, texts = _fresh((first, second), configs, data, names, options)
    else:
        for name in ("queries", "documents", "corpus", "part"):
            if options[name] is not None:
                raise click.UsageError(f"--{name} goes with --data")
        found, groups, texts = _stored((first, second))
    gain = paired(*found, groups=groups, seed=options["seed"])
    if metric not in gain.gains:
        raise ArgumentError(
            f"the runs have not stored {metric!r}, but {', '.join(gain.gains)}; choose one of "
            "these with --metric, or measure it with --data"
        )
    # The metric alone decides here; what a run must keep besides is its own gate's to say.
    settings = GateSettings(metric=metric, minimum_gain=minimum_gain, maximum_coverage_loss=1.0)
    evidence = Evidence(
        before=found[0], after=found[1], gain=gain, groups=groups,
        changed=True, train_queries=len(groups) + 10**6, against="the first run",
    )  # fmt: skip
    verdict = decide(evidence, settings)
    worst, hint = _worst(gain, metric, texts), _hint(gain.gains[metric], verdict, settings, groups)
    if options["as_json"]:
        click.echo(outputs.to_json(
            summary(gain, metric, "first", "second")
            | {"runs": [str(first), str(second)], "queries": len(groups), "worst": worst}
            | {"passed": verdict.passed, "reason": verdict.reason, "hint": hint}
        ))  # fmt: skip
    else:
        click.echo(f"{len(groups):,} queries   first {first}   second {second}")
        print_table(gain, metric, ("first", "second"))
        for row in worst:
            name = row["text"] or f"query {row['query']}"
            click.echo(f"  worse       {row['first']:.3f} -> {row['second']:.3f}  {name}")
        if verdict.passed:
            click.echo(click.style(f"✓ the second is better: {verdict.reason}", fg="green"))
        else:
            click.echo(click.style(f"✗ not proven better: {verdict.reason}", fg="red"))
            click.echo(f"  {hint}   exit 3")
    return 0 if verdict.passed else NOT_BETTER


# Two evaluations of the same queries -------------------------------------------------------------


def _stored(runs: tuple[Path, Path]) -> tuple[tuple[Evaluation, Evaluation], Any, Any]:
    """Return what two runs have stored about the test queries that they share."""
    from coreframe.evaluation.per_query import FILE, read_per_query, same_questions

    files = []
    for run in runs:
        if not (run / FILE).exists():
            raise ArtefactError(
                f"{run} has no {FILE}: what was found for each test query is not stored there; "
                "measure both with --data"
            )
        files.append(read_per_query(run / FILE))
    first, second = files
    rows = same_questions(first, second)
    groups = _joined(first.groups, second.groups[rows])
    both = (
        first.evaluation(_what_is_stored(runs[0], first.values)),
        second.evaluation(_what_is_stored(runs[1], second.values), rows),
    )
    return both, groups, first.texts


def _what_is_stored(run: Path, known: Mapping[str, Any]) -> str:
    if "stored" in known:
        return "stored"
    return "base" if read_json(run / "metrics.json").get("promoted") == "identity" else "adapted"


def _joined(first: Any, second: Any) -> Any:
    """Return groups in which queries are together that are so in either."""
    import numpy as np

    from coreframe.data.relevance import components

    count = len(first)
    left, right = (np.unique(x, return_inverse=True)[1].reshape(-1) for x in (first, second))
    rows = np.arange(count)
    ends = np.concatenate([count + left, 2 * count + right])
    return components(np.concatenate([rows, rows]), ends, 3 * count)[:count]


def _fresh(
    runs: tuple[Path, Path],
    configs: Sequence[RunConfig],
    data: Sequence[Path],
    names: Sequence[str],
    options: Mapping[str, Any],
) -> tuple[tuple[Evaluation, Evaluation], Any, Any]:
    """Measure what two runs store on data, which is embedded twice where they differ in that."""
    from coreframe.artefact import load
    from coreframe.evaluation.retrieval import evaluate as measure

    adapters = [load(run) for run in runs]
    parts = [pairs_of(data, configs[1], adapters[1], options)] * 2
    if configs[0].embedder != configs[1].embedder or configs[0].data != configs[1].data:
        parts[0] = pairs_of(data, configs[0], adapters[0], {**options, "quiet": True})
    elif adapters[0].dimensions != adapters[1].dimensions:
        raise ArgumentError(
            f"{runs[0]} is for vectors of width {adapters[0].dimensions}, {runs[1]} of width "
            f"{adapters[1].dimensions}: one set of vectors cannot serve both"
        )
    for run in runs:
        warn_if_seen(run, data, options)
    both = [
        measure(adapter, pairs, metrics=names, similarity=adapter.similarity)
        for adapter, pairs in zip(adapters, parts, strict=True)
    ]
    if len(both[0].first) != len(both[1].first):
        raise DataError(
            "the two runs read different queries from the data: their columns differ; give one "
            "file for both with --config"
        )
    return (both[0], both[1]), parts[1].groups, parts[1].query_texts


def _hint(gain: Gain, verdict: Gate, settings: GateSettings, groups: Any) -> str:
    """Return what to make of a gain that is not proven; empty if it is."""
    from coreframe.gate import worse

    few = len(groups) < settings.minimum_queries or len(set(groups)) < settings.minimum_groups
    if verdict.passed or few:
        return verdict.hint
    if not gain.better + gain.worse:
        return "both rank all of these queries alike"
    if worse(gain):
        return "the first is proven better"
    return (
        f"{gain.better + gain.worse} of {len(groups)} queries changed: more of them would tell, "
        "if there is a difference"
    )


def _worst(
    found: Comparison, metric: str, texts: Sequence[str | None] | None
) -> list[dict[str, Any]]:
    """Return the queries that lost most, the worst first."""
    import numpy as np

    before, after = found.base.values[metric], found.adapted.values[metric]
    change = after - before
    rows = [int(i) for i in np.argsort(change, kind="stable") if change[i] < 0][:WORST]
    return [
        {
            "query": i,
            "text": _short(texts[i]) if texts is not None else None,
            "first": float(before[i]),
            "second": float(after[i]),
        }
        for i in rows
    ]


def _short(text: str | None) -> str | None:
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
