"""``demo`` and ``train``: from data to an adapter, with its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from coreframe import console
from coreframe.backend import get_backend
from coreframe.cli.common import NOT_BETTER, assignments, run_options, tell


@click.command()
@click.option("--quick", is_flag=True, help="A shorter training; the same test.")
@click.option("--embedder", help="An embedder, by name; hashing if nothing says otherwise.")
@run_options
def demo(quick: bool, embedder: str | None, **options: Any) -> int:
    """See embeddings get better on real data: English emoji names found by German ones."""
    from coreframe import config, demo, outputs

    if quick and options["config"] is not None:
        raise click.UsageError("--quick shortens the demo's own settings; leave out --config")

    options["out"] = options["out"] or Path("coreframe-demo")
    chosen = [] if embedder is None else [f"embedder.name={embedder}"]
    settings = config.read(
        options["config"],
        [*chosen, *assignments(options)],
        default=demo.QUICK if quick else demo.SETTINGS,
    )
    get_backend(settings.train.backend)  # what cannot run is said before any work
    folder = outputs.claim_folder(options["out"], overwrite=options["overwrite"])
    pairs = demo.pairs(settings.embedder)
    inputs = {
        "German names": outputs.hash_texts(pairs.query_texts),
        "English names": outputs.hash_texts(pairs.document_texts),
    }
    title, base_model = "Emoji names, German to English", type(settings.embedder).__name__
    return _train(pairs, settings, folder, title, inputs, f"coreframe:{base_model}", options)


@click.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--queries", type=click.Path(path_type=Path), help="Vectors of the queries, .npy.")
@click.option("--documents", type=click.Path(path_type=Path),
              help="Vectors of the documents, .npy.")  # fmt: skip
@run_options
def train(
    data: tuple[Path, ...], queries: Path | None, documents: Path | None, **options: Any
) -> int:
    """Train on your own DATA and keep the result only if it is proven better.

    DATA is a file of pairs (JSON lines or Parquet), with texts or, by --queries and --documents,
    with vectors that you have; or two files, X.npy and y.npy, of vectors and class labels.
    """
    from coreframe import config, outputs
    from coreframe.data import loading

    options["out"] = options["out"] or Path("coreframe-run")
    settings = config.read(options["config"], assignments(options))
    get_backend(settings.train.backend)  # what cannot run is said before any work
    folder = outputs.claim_folder(options["out"], overwrite=options["overwrite"])
    loaded = loading.load_pairs(data, queries=queries, documents=documents, config=settings)
    for line in loaded.notes:
        tell(options, line)
    inputs = {str(path): outputs.hash_file(path) for path in loaded.files}
    return _train(loaded.pairs, settings, folder, data[0].name, inputs, loaded.base_model, options)


def _train(
    pairs: Any,
    settings: Any,
    folder: Path,
    title: str,
    inputs: Mapping[str, str],
    base_model: str | None,
    options: Mapping[str, Any],
) -> int:
    """Split, run the experiment, write the folder, print the evidence, and return the code."""
    from coreframe import outputs
    from coreframe.experiment import experiment

    split = settings.data
    train, dev, test = pairs.split(split.dev, split.test, seed=settings.train.seed)
    tell(options, f"data    {pairs}")
    counts = f"{len(train):,} train · {len(dev):,} dev · {len(test):,} test"
    tell(options, f"split   {counts} queries, by group: no text and no group on two sides")
    quiet = options["quiet"] or options["as_json"]
    callbacks = [] if quiet else [console.progress(verbose=options["verbose"])]
    outcome = experiment(train, dev, test, settings, base_model=base_model, callbacks=callbacks)
    metrics = outputs.write_run(outcome, settings, folder, title=title, inputs=inputs)
    if options["as_json"]:
        click.echo(outputs.to_json(metrics))
    else:
        console.print_outcome(outcome, folder)
    return 0 if outcome.gate.passed else NOT_BETTER
