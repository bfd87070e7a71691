"""``demo`` and ``train``: from data to an adapter, with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from coreframe import console
from coreframe.cli import planning, saving, signals
from coreframe.cli.common import NOT_BETTER, assignments, run_options, tell
from coreframe.cli.followers import can_run, command, followers, result
from coreframe.cli.options import Grouped


@click.command(cls=Grouped)
@click.option("--quick", is_flag=True, help="A shorter training; the same test.")
@click.option("--embedder", help="An embedder, by name; hashing if nothing says otherwise.")
@run_options
def demo(quick: bool, embedder: str | None, **options: Any) -> int:
    """See embeddings get better on real data: English emoji names found by German ones."""
    from coreframe import config, demo, outputs, runs
    from coreframe.data.loading import Loaded

    if quick and options["config"] is not None:
        raise click.UsageError("--quick shortens the demo's own settings; leave out --config")

    chosen = [] if embedder is None else [f"embedder.name={embedder}"]
    default = demo.QUICK if quick else demo.SETTINGS
    settings = config.read(
        options["config"],
        [*chosen, *assignments(options, default=default)],
        default=default,
    )
    can_run(settings)
    folder = saving.claim(options, Path("coreframe-demo"))
    pairs = demo.pairs(settings.embedder)
    inputs = {
        "German names": outputs.hash_texts(pairs.query_texts),
        "English names": outputs.hash_texts(pairs.document_texts),
    }
    loaded = Loaded(pairs, (), (), f"coreframe:{type(settings.embedder).__name__}")
    title = "Emoji names, German to English"
    return _train(loaded, settings, folder, title, inputs, runs.of_demo(pairs), options)


class SeveralValues(Grouped):
    """A command whose ``--keep`` takes all up to the next option, as in ``--keep eval/*.jsonl``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found: list[str] = []
        keeping = False
        for word in args:
            if word.startswith("-"):
                keeping = word == "--keep"
                if not keeping:
                    found.append(word)
            else:
                found += ["--keep", word] if keeping else [word]
        if args[-1:] == ["--keep"]:
            found.append("--keep")  # which click then says needs a value
        return super().parse_args(ctx, found)


@click.command(cls=SeveralValues)
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
@click.option("--dry-run", is_flag=True,
              help="Say what would be done and about how much memory it takes.")  # fmt: skip
@click.option("--continue", "earlier", metavar="RUN", type=click.Path(path_type=Path),
              help="Go on from the adapter of this run, with its settings.")  # fmt: skip
@click.option("--keep", "keep", metavar="EVAL...", multiple=True,
              help="With --continue: sets that must not get worse, each a FILE, or "
              "FILE,QUERIES,DOCUMENTS with vectors. After DATA.")  # fmt: skip
@run_options
def train(
    data: tuple[Path, ...],
    queries: Path | None,
    documents: Path | None,
    corpus: Path | None,
    split: str | None,
    dry_run: bool,
    earlier: Path | None,
    keep: tuple[str, ...],
    **options: Any,
) -> int:
    """Train on your own DATA and keep the result only if it is proven better.

    DATA is a file of pairs (JSON lines, CSV, Parquet, Arrow, ...) or a folder (BEIR, datasets),
    with texts or, by --queries and --documents, with vectors that you have; or two files, X.npy
    and y.npy, of vectors and class labels. "coreframe inspect DATA" says what is seen in it.
    """
    from coreframe import config, outputs, runs
    from coreframe.data import loading

    if keep and earlier is None:
        raise click.UsageError(
            "--keep says what a run that goes on must not forget: --continue RUN"
        )
    stored = None if earlier is None else runs.read_run(earlier)
    if stored is not None and options["config"] is None:
        options["config"] = stored.folder / "run.toml"
    chosen = [] if split is None else [f'data.split="{split}"']
    settings = config.read(options["config"], [*assignments(options), *chosen])
    can_run(settings)
    if dry_run:
        planned = planning.embedding_nothing(settings, options)
        seen = loading.load_pairs(
            data, queries=queries, documents=documents, corpus=corpus, config=planned
        )
        return planning.show(seen, settings, options)
    default = Path("coreframe-run")
    if (code := saving.finished(options, settings, default, data)) is not None:
        return code
    folder = saving.claim(options, default)
    loaded = loading.load_pairs(
        data, queries=queries, documents=documents, corpus=corpus, config=settings
    )
    inputs = {str(path): outputs.hash_file(path) for path in loaded.files}
    sources = runs.describe_sources(
        folder, inputs, data=data, queries=queries, documents=documents, corpus=corpus
    )
    return _train(
        loaded, settings, folder, data[0].name, inputs, sources, options, stored=stored, keep=keep
    )


def embedded_by(loaded: Any, settings: Any) -> list[str]:
    """Return a line on what made the vectors of texts, so that nobody takes it for their model."""
    from coreframe.config import default

    if loaded.base_model is None:
        return []
    line = f"texts   embedded by {loaded.base_model}"
    if type(settings.embedder) is type(default().embedder):
        line += ", the default, which sees spelling and not meaning ([embedder] names another)"
    return [line]


def _train(
    loaded: Any,
    settings: Any,
    folder: Path,
    title: str,
    inputs: Mapping[str, str],
    sources: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    stored: Any = None,
    keep: tuple[str, ...] = (),
) -> int:
    """Split, run the experiment, write the folder, print the evidence, and return the code."""
    from coreframe import outputs, runs
    from coreframe.data.splits import split_pairs
    from coreframe.experiment import experiment

    made_by = embedded_by(loaded, settings)
    for line in (*loaded.notes, *made_by, f"data    {loaded.pairs}"):
        tell(options, line)
    split = split_pairs(loaded, settings.data, seed=settings.train.seed)
    train, dev, going_on = split.train, split.dev, None
    entries: Sequence[Any] = ()
    told = list(split.notes)
    if stored is not None:
        going_on = runs.go_on(stored, settings, loaded.pairs, base_model=loaded.base_model)
        remembered = runs.remember(stored, keep, settings, folder)
        going_on = replace(going_on, kept=remembered.kept)
        train, unlearned = runs.without_kept(train, remembered.kept)
        dev, unasked = runs.without_kept(dev, remembered.kept)
        entries = remembered.entries
        told += remembered.notes
        if unlearned or unasked:
            both = f"{unlearned:,} training and {unasked:,} dev queries"
            told.append(f"kept    {both} stand in a kept set: left out")
    for line in told:
        tell(options, line)
    if (line := planning.watched(dev, settings)) is not None:
        tell(options, line)
    checkpoints = saving.checkpoints(options, settings, folder, inputs)
    with (
        signals.stopping(checkpoints),
        checkpoints,
        followers(settings, folder, options) as following,
    ):
        outcome = experiment(
            train,
            dev,
            split.test,
            settings,
            base_model=loaded.base_model,
            callbacks=[following],
            earlier=going_on,
            checkpoints=checkpoints,
        )
        notes = (*loaded.notes, *told)
        metrics = outputs.write_run(
            outcome,
            settings,
            folder,
            title=title,
            inputs=inputs,
            sources=sources,
            kept=entries,
            notes=notes,
            logged=True,
            command=command(),
        )
        if checkpoints.save_strategy == "auto":
            checkpoints.remove()  # they were there to go on from, and the results are written
        following.on_result(result(metrics))
    if options["as_json"]:
        click.echo(outputs.to_json(metrics))
    else:
        console.print_outcome(outcome, folder)
    return 0 if outcome.gate.passed else NOT_BETTER
