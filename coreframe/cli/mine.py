"""``mine``: hard negatives from the whole collection, as rows to train on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreframe.cli.common import FAILED, tell
from coreframe.errors import ArgumentError, MissingExtra

if TYPE_CHECKING:
    from coreframe.data.mining import Mined

FILE = click.Path(path_type=Path)
_RULES = (
    "num_negatives", "range_min", "range_max", "max_score", "min_score", "absolute_margin",
    "relative_margin", "sampling_strategy", "include_positives", "false_negative_margin", "search",
    "index", "index_parameters", "backend", "seed",
)  # fmt: skip


@click.command()
@click.argument("data", nargs=-1, required=True, type=FILE)
@click.option("-o", "--out", required=True, type=FILE, help="Where rows go: .jsonl or .parquet.")
@click.option("--queries", type=FILE, help="Vectors of the queries; rows then have ids, not texts.")
@click.option("--documents", type=FILE, help="Vectors of the documents.")
@click.option("--corpus", type=FILE, help="More documents: texts, or vectors beside --documents.")
@click.option(
    "--part",
    type=click.Choice(["all", "train", "dev", "test"]),
    help="Where the data is in parts; train if it has one, else all.",
)
@click.option("--embedder", help="An embedder, by name; hashing if nothing says otherwise.")
@click.option(
    "--num-negatives",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Negatives a query.",
)
@click.option(
    "--range-min",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How many of the nearest documents are skipped.",
)
@click.option("--range-max", type=click.IntRange(1), help="How many are looked at.")
@click.option("--max-score", type=float, help="Drop what scores above.")
@click.option("--min-score", type=float, help="Drop what scores below.")
@click.option(
    "--absolute-margin",
    type=float,
    help="Drop what scores above the lowest right document, less this.",
)
@click.option(
    "--relative-margin",
    type=float,
    help="The same, as a share of that document's score; 0.05 is a good start.",
)
@click.option(
    "--sampling-strategy",
    type=click.Choice(["top", "random"]),
    default="top",
    show_default=True,
    help="The hardest of what is left, or a draw.",
)
@click.option("--include-positives", is_flag=True, help="Ranked lists, right documents included.")
@click.option(
    "--keep-anchors", is_flag=True, help="Let a document with the query's own text be its negative."
)
@click.option(
    "--cross-encoder",
    metavar="MODEL",
    help="A cross-encoder of sentence-transformers that scores the candidates again.",
)
@click.option(
    "--output-format",
    default="triplet",
    show_default=True,
    type=click.Choice(["triplet", "n-tuple", "labeled-pair", "labeled-list"]),
)
@click.option("--output-scores", is_flag=True, help="Add the scores.")
@click.option("--anchor-column-name", metavar="NAME", help="The column of queries, in and out.")
@click.option(
    "--positive-column-name", metavar="NAME", help="The column of right documents, in and out."
)
@click.option(
    "--suspects",
    type=FILE,
    help="Where likely false negatives are listed; OUT.suspects.jsonl if not given.",
)
@click.option(
    "--false-negative-margin",
    type=float,
    default=0.0,
    show_default=True,
    help="Suspect what scores above the lowest right document, less this.",
)
@click.option(
    "--search",
    type=click.Choice(["exact", "faiss", "usearch"]),
    default="exact",
    show_default=True,
    help="All documents, or through an index.",
)
@click.option("--index", metavar="TEXT", help="Of faiss, such as IVF4096,Flat or HNSW32.")
@click.option("--index-parameters", metavar="TEXT", help="Such as nprobe=16.")
@click.option("--backend", help="Where the exact search computes: numpy, cupy, torch, jax.")
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True, help="Of the draw.")
@click.option("-c", "--config", type=FILE, help="A run.toml with columns and embedder.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=VALUE",
    help='Override one value, such as embedder.query_prompt="query: ".',
)
@click.option("--no-cache", is_flag=True, help="Neither use nor keep vectors of texts on disk.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the statistics as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no notes.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")  # fmt: skip
def mine(data: tuple[Path, ...], out: Path, **options: Any) -> int:
    """Find hard negatives for the pairs in DATA: documents that look right and are not.

    DATA and --corpus are as for "coreframe train", which reads what is written here. Options are
    those of sentence-transformers' mine_hard_negatives, filters in the same order.
    """
    from dataclasses import replace

    from coreframe import config
    from coreframe.data import loading
    from coreframe.data.mining import mine_hard_negatives
    from coreframe.data.row_writer import check_path, write_rows

    suspects = options["suspects"] or out.with_suffix(".suspects.jsonl")
    for path, name in ((out, "--out"), (suspects, "--suspects")):
        check_path(path, name)
        if path.exists() and not options["overwrite"]:
            raise ArgumentError(f"{path} exists; give another {name}, or --overwrite")
    columns = {side: options[f"{side}_column_name"] for side in ("anchor", "positive")}
    chosen = [f"data.{side}={json.dumps(name)}" for side, name in columns.items() if name]
    if options["embedder"]:
        chosen.append(f"embedder.name={options['embedder']}")
    if options["no_cache"]:
        chosen.append("data.cache=false")
    settings = config.read(options["config"], [*chosen, *options["assignments"]])
    judge = _cross_encoder(options["cross_encoder"])
    loaded = loading.load_pairs(
        data,
        queries=options["queries"],
        documents=options["documents"],
        corpus=options["corpus"],
        config=settings,
    )
    for line in loaded.notes:
        tell(options, line)
    part = options["part"]
    rows = None
    if part != "all" and (part or (loaded.parts is not None and 0 in loaded.parts)):
        rows = loaded.rows_of(part or "train")
        tell(options, f"part    {part or 'train'}: {len(rows):,} queries")
    pairs = loaded.pairs if rows is None else loaded.pairs.take(rows)
    mined = mine_hard_negatives(
        pairs,
        mask_anchors=not options["keep_anchors"],
        cross_encoder=judge,
        progress=_progress(options),
        **{name: options[name] for name in _RULES},
    )
    query_ids = loaded.query_ids
    if query_ids is not None and rows is not None:
        query_ids = [query_ids[i] for i in rows.tolist()]
    mined = replace(mined, query_ids=query_ids, document_ids=loaded.document_ids)
    found = mined.statistics()
    if not found["negatives"]:
        click.echo(f"error: no negatives: {_advice(found, options)}", err=True)
        return FAILED
    written = mined.write(
        out,
        "n-tuple" if options["include_positives"] else options["output_format"],
        output_scores=options["output_scores"],
        anchor_column=columns["anchor"] or "anchor",
        positive_column=columns["positive"] or "positive",
        ids=loaded.query_ids is not None,
    )
    names = list(next(iter(mined.suspect_rows()), {}))
    write_rows(suspects, names, mined.suspect_rows())
    if options["as_json"]:
        told = {"rows": written, "out": str(out), "suspects_file": str(suspects)}
        click.echo(json.dumps({**told, **found}, indent=2))
    else:
        _print(mined, found, written, out, suspects, options)
    return 0


def _cross_encoder(model: str | None) -> Any:
    if model is None:
        return None
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise MissingExtra(
            "sentence-transformers", "sentence-transformers", "--cross-encoder"
        ) from None
    return CrossEncoder(model)


def _progress(options: Mapping[str, Any]) -> Callable[[int, int], None]:
    return lambda done, of: tell(options, f"mine    {done:,} of {of:,} queries")


def _print(
    mined: Mined,
    found: Mapping[str, Any],
    written: int,
    out: Path,
    suspects: Path,
    options: Mapping[str, Any],
) -> None:
    """Print what was found: counts, distributions of scores, and what to look at."""
    recall = "" if found["recall"] is None else (
        f" (approximate: {found['recall']:.1%} of the exact candidates on a sample)"
    )  # fmt: skip
    click.echo(f"{found['queries']:,} queries, {found['pairs']:,} right documents, "
               f"{found['documents']:,} documents")  # fmt: skip
    if found["queries_without_positive"]:
        click.echo(f"{found['queries_without_positive']:,} queries without a right document")
    click.echo(f"search: {found['search']}{recall}, range_max {found['range_max']}")
    click.echo("")
    click.echo(f"{'score':<8}{'positive':>12}{'negative':>12}{'difference':>12}")
    kinds = [found[kind] for kind in ("positive", "negative", "difference")]
    for name in kinds[0]:
        click.echo(f"{name:<8}" + "".join(f"{kind[name]:12.4f}" for kind in kinds))
    click.echo("")
    for name, count in found["skipped"].items():
        share = count / max(1, found["candidates"])
        click.echo(f"{count:,} candidates ({share:.1%}) dropped by {name} "
                   f"{getattr(mined.rules, name):g}")  # fmt: skip
    if found["queries_short"]:
        click.echo(f"{found['queries_short']:,} queries have fewer than "
                   f"{found['num_negatives']} negatives: {_advice(found, options)}")  # fmt: skip
    without = _without_row(found, options)
    if without:
        click.echo(f"{without:,} of {found['queries']:,} queries have no row in {out}, so train "
                   "will not see them")  # fmt: skip
    click.echo(f"{found['suspects']:,} candidates score above a right document: perhaps they are "
               f"right; {found['suspects_listed']:,} listed in {suspects}")  # fmt: skip
    if found["suspects_used"]:
        click.echo(f"{found['suspects_used']:,} of them are used as negatives; "
                   "--relative-margin 0.05 would drop them")  # fmt: skip
    click.echo(f"{written:,} rows in {out}")


def _without_row(found: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    """Count the queries that lack the negatives that a row of the format holds."""
    if options["include_positives"] or options["output_format"] == "n-tuple":
        return int(found["queries_short"])
    return int(found["queries_without_negative"]) if options["output_format"] == "triplet" else 0


def _advice(found: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    names = [n for n in ("relative_margin", "absolute_margin", "max_score", "min_score")
             if found["skipped"].get(n)]  # fmt: skip
    if options["range_min"]:
        names.append("range_min")
    flags = ", ".join("--" + name.replace("_", "-") for name in names)
    more = f"raise --range-max above {found['range_max']}"
    return more + (f", or loosen {flags}" if flags else ", or add documents")
