"""``demo`` and ``train``: from data to an adapter, with its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from coreframe import console
from coreframe.backend import get_backend
from coreframe.cli.common import NOT_BETTER, assignments, run_options, tell
from coreframe.cli.followers import command, followers, result
from coreframe.cli.options import Grouped


@click.command(cls=Grouped)
@click.option("--quick", is_flag=True, help="A shorter training; the same test.")
@click.option("--embedder", help="An embedder, by name; hashing if nothing says otherwise.")
@run_options
def demo(quick: bool, embedder: str | None, **options: Any) -> int:
    """See embeddings get better on real data: English emoji names found by German ones."""
    from coreframe import config, demo, outputs
    from coreframe.data.loading import Loaded

    if quick and options["config"] is not None:
        raise click.UsageError("--quick shortens the demo's own settings; leave out --config")

    options["out"] = options["out"] or Path("coreframe-demo")
    chosen = [] if embedder is None else [f"embedder.name={embedder}"]
    default = demo.QUICK if quick else demo.SETTINGS
    settings = config.read(
        options["config"],
        [*chosen, *assignments(options, default=default)],
        default=default,
    )
    get_backend(settings.train.backend)  # what cannot run is said before any work
    folder = outputs.claim_folder(options["out"], overwrite=options["overwrite"])
    pairs = demo.pairs(settings.embedder)
    inputs = {
        "German names": outputs.hash_texts(pairs.query_texts),
        "English names": outputs.hash_texts(pairs.document_texts),
    }
    loaded = Loaded(pairs, (), (), f"coreframe:{type(settings.embedder).__name__}")
    return _train(loaded, settings, folder, "Emoji names, German to English", inputs, options)


@click.command(cls=Grouped)
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    help="Vectors of the queries: .npy, .npz, .safetensors, .parquet, .lance, .csv, ...",
)
@click.option(
    "--documents",
    type=click.Path(path_type=Path),
    help="Vectors of the documents; those that no row names are searched too.",
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="More documents to search: texts, or vectors beside --documents.",
)
@click.option("--split", type=click.Choice(["auto", "random", "group", "time", "given"]),
              help="How train, dev and test are told apart.")  # fmt: skip
@run_options
def train(
    data: tuple[Path, ...],
    queries: Path | None,
    documents: Path | None,
    corpus: Path | None,
    split: str | None,
    **options: Any,
) -> int:
    """Train on your own DATA and keep the result only if it is proven better.

    DATA is a file of pairs (JSON lines, CSV, Parquet, Arrow, ...) or a folder (BEIR, datasets),
    with texts or, by --queries and --documents, with vectors that you have; or two files, X.npy
    and y.npy, of vectors and class labels. "coreframe inspect DATA" says what is seen in it.
    """
    from coreframe import config, outputs
    from coreframe.data import loading

    options["out"] = options["out"] or Path("coreframe-run")
    chosen = [] if split is None else [f'data.split="{split}"']
    settings = config.read(options["config"], [*assignments(options), *chosen])
    get_backend(settings.train.backend)  # what cannot run is said before any work
    folder = outputs.claim_folder(options["out"], overwrite=options["overwrite"])
    loaded = loading.load_pairs(
        data, queries=queries, documents=documents, corpus=corpus, config=settings
    )
    inputs = {str(path): outputs.hash_file(path) for path in loaded.files}
    return _train(loaded, settings, folder, data[0].name, inputs, options)


def _train(
    loaded: Any,
    settings: Any,
    folder: Path,
    title: str,
    inputs: Mapping[str, str],
    options: Mapping[str, Any],
) -> int:
    """Split, run the experiment, write the folder, print the evidence, and return the code."""
    from coreframe import outputs
    from coreframe.data.splits import split_pairs
    from coreframe.experiment import experiment

    for line in (*loaded.notes, f"data    {loaded.pairs}"):
        tell(options, line)
    split = split_pairs(loaded, settings.data, seed=settings.train.seed)
    for line in split.notes:
        tell(options, line)
    with followers(settings, folder, options) as following:
        outcome = experiment(
            split.train,
            split.dev,
            split.test,
            settings,
            base_model=loaded.base_model,
            callbacks=[following],
        )
        notes = (*loaded.notes, *split.notes)
        metrics = outputs.write_run(
            outcome,
            settings,
            folder,
            title=title,
            inputs=inputs,
            notes=notes,
            logged=True,
            command=command(),
        )
        following.on_result(result(metrics))
    if options["as_json"]:
        click.echo(outputs.to_json(metrics))
    else:
        console.print_outcome(outcome, folder)
    return 0 if outcome.gate.passed else NOT_BETTER
