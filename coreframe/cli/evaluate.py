"""``evaluate``: what a stored adapter is worth on data. ``compare`` is in its own file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreframe.cli.common import tell
from coreframe.errors import DataError

if TYPE_CHECKING:
    from coreframe.artefact import TrainedAdapter
    from coreframe.config import RunConfig
    from coreframe.data.pairs import Pairs
    from coreframe.evaluation.compare import Comparison

FILE = click.Path(path_type=Path)


def data_options(command: Any) -> Any:
    """Add the options of a verb that measures stored adapters on data."""
    for option in reversed([
        click.option("--queries", type=FILE, help="Vectors of the queries."),
        click.option("--documents", type=FILE, help="Vectors of the documents."),
        click.option("--corpus", type=FILE, help="More documents to search."),
        click.option("--part", type=click.Choice(["all", "train", "dev", "test"]),
                     help="Where the data is in parts; test if it has one, else all."),
        click.option("--metric", help="The metric that decides; that of the run, or ndcg@10."),
        click.option("--metrics", multiple=True, metavar="NAMES",
                     help="More metrics, such as recall@100,map@100."),
        click.option("-c", "--config", type=FILE,
                     help="A run.toml with columns and embedder; that of the run if not given."),
        click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE",
                     help="Override one value, such as data.anchor=question."),
        click.option("--seed", type=click.IntRange(0), default=42, help="Seed of all draws."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object only."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr."),
        click.option("--debug", is_flag=True, help="Show tracebacks."),
    ]):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("run", metavar="RUN_OR_ADAPTER", type=FILE)
@click.argument("data", nargs=-1, required=True, type=FILE)
@click.option("--trec-dir", type=FILE, help="Folder for qrels.trec and run files of both.")
@click.option("--per-query", type=FILE, help="File for a line of JSON for each query.")
@data_options
def evaluate(
    run: Path, data: tuple[Path, ...], trec_dir: Path | None, per_query: Path | None, **options: Any
) -> int:
    """Measure a stored adapter beside the base on DATA, query by query.

    RUN_OR_ADAPTER is the folder of a run or of an adapter; DATA is as for "coreframe train". Only
    queries that were not trained on say what to expect.
    """
    from coreframe import outputs
    from coreframe.artefact import load
    from coreframe.evaluation import trec
    from coreframe.evaluation.compare import paired
    from coreframe.evaluation.geometry import health
    from coreframe.evaluation.per_query import per_query_lines
    from coreframe.evaluation.retrieval import evaluate as measure
    from coreframe.storage import make_folder

    adapter, config = load(run), config_of(run, options)
    metric, names = metrics_of([config], options)
    pairs = pairs_of(data, config, adapter, options)
    warn_if_seen(run, data, options)
    base, adapted = (
        measure(one, pairs, metrics=names, similarity=adapter.similarity) for one in (None, adapter)
    )
    found = paired(base, adapted, groups=pairs.groups, seed=options["seed"])
    before = health(None, pairs, seed=options["seed"])
    after = health(adapter, pairs, base=before, seed=options["seed"])
    if trec_dir is not None:
        runs = {"base": (None, base), "adapted": (adapter, adapted)}
        trec.write_trec(trec_dir, pairs, runs, similarity=adapter.similarity)
    if per_query is not None:
        lines = per_query_lines(pairs, {"base": base, "adapted": adapted})
        make_folder(per_query.parent)
        trec.write_lines(per_query, (f"{line}\n" for line in lines))
    if options["as_json"]:
        measured = {"base": before.as_dict(), "adapted": after.as_dict()}
        sizes = {"queries": len(pairs), "documents": int(pairs.documents.shape[0])}
        click.echo(outputs.to_json(summary(found, metric, "base", "adapted")
                                   | sizes | {"health": measured}))  # fmt: skip
        return 0
    click.echo(f"{len(pairs):,} queries · {pairs.documents.shape[0]:,} documents")
    print_table(found, metric, ("base", "adapted"))
    for name, h in (("base", before), ("adapted", after)):
        click.echo(
            f"  {name:<12}effective rank {h.effective_rank:.1f} · alignment {h.alignment:.3f} · "
            f"uniformity {h.uniformity:.3f} · hubness {h.hubness:.2f}"
        )
        if h.collapsed:
            click.echo(click.style(f"  {name} has collapsed: {h.reason}", fg="red"))
    return 0


# What is asked for ----------------------------------------------------------------------------


def config_of(run: Path, options: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that data is read by: the one given, else the run's own."""
    from coreframe import config

    own = run / "run.toml"
    path = options["config"] or (own if own.exists() else None)
    return config.read(path, options["assignments"])


def metrics_of(
    configs: Sequence[RunConfig], options: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """Return the metric that decides, and all that are measured."""
    from coreframe.evaluation import METRICS
    from coreframe.evaluation.metrics import several

    metric = options["metric"] or configs[0].gate.metric
    more = [name for text in options["metrics"] for name in text.replace(",", " ").split()]
    configured = [name for config in configs for name in config.gate.metrics]
    return metric, several(METRICS, metric, configured, more)


def pairs_of(
    data: Sequence[Path], config: RunConfig, adapter: TrainedAdapter, options: Mapping[str, Any]
) -> Pairs:
    """Read the data, and the part of it that is asked for; it must fit the adapter."""
    from coreframe.data.loading import load_pairs

    loaded = load_pairs(
        data,
        queries=options["queries"],
        documents=options["documents"],
        corpus=options["corpus"],
        config=config,
    )
    for line in loaded.notes:
        tell(options, line)
    pairs, part = loaded.pairs, options["part"]
    width = int(pairs.queries.shape[1])
    if width != adapter.dimensions:
        made = f" of {adapter.base_model}" if adapter.base_model else ""
        raise DataError(
            f"the vectors of the data have width {width}, but the adapter is for vectors{made} "
            f"of width {adapter.dimensions}"
        )
    if None not in (loaded.base_model, adapter.base_model) and (
        loaded.base_model != adapter.base_model
    ):
        tell(options, f"note    the adapter was trained on vectors of {adapter.base_model}, "
                      f"these are of {loaded.base_model}")  # fmt: skip
    if part is None:
        has_test = loaded.parts is not None and bool((loaded.parts == 2).any())
        part = "test" if has_test else "all"
    return pairs if part == "all" else loaded.part(part)


def warn_if_seen(run: Path, data: Sequence[Path], options: Mapping[str, Any]) -> None:
    """Say so if a file is one that the run was trained on."""
    known = read_json(run / "environment.json").get("inputs")
    if not isinstance(known, dict):
        return
    from coreframe.outputs import hash_file

    for path in data:
        if path.is_file() and hash_file(path) in known.values():
            tell(options, f"note    {path} is what the run was trained on: most of these queries "
                          "were seen, and the gain is too good")  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# What is said ---------------------------------------------------------------------------------


def print_table(found: Comparison, metric: str, names: tuple[str, str]) -> None:
    click.echo(f"{'':<14}{names[0]:>9}{names[1]:>10}{'gain':>9}   {'95% interval':<18}      p")
    for name, g in found.gains.items():
        interval = f"[{g.low:+.3f}, {g.high:+.3f}]"
        line = (
            f"  {name:<12}{g.base:9.3f}{g.adapted:10.3f}{g.gain:+9.3f}   {interval:<18} {g.p:.4f}"
        )
        click.echo(click.style(line, bold=name == metric))
    g = found.gains[metric]
    click.echo(f"  {'queries':<12}{g.better} better · {g.worse} worse · {g.same} same in {metric}")


def summary(found: Comparison, metric: str, before: str, after: str) -> dict[str, Any]:
    gains = found.gains
    return {
        "metric": metric,
        before: {name: g.base for name, g in gains.items()},
        after: {name: g.adapted for name, g in gains.items()},
        "gain": {name: g.gain for name, g in gains.items()},
        "ci95": {name: [g.low, g.high] for name, g in gains.items()},
        "p": {name: g.p for name, g in gains.items()},
        "better": gains[metric].better,
        "worse": gains[metric].worse,
        "same": gains[metric].same,
    }
