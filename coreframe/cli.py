"""The command line. Results go to stdout, everything else to stderr.

Exit codes: 0 done and better; 1 failed; 2 usage or configuration; 3 trained but not better,
nothing promoted; 4 input data rejected; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import click

import coreframe
from coreframe import console, registry
from coreframe.backend import get_backend, library_name
from coreframe.errors import (
    CoreframeError,
    DataError,
    MissingExtra,
    OutputError,
    PluginError,
    PluginWarning,
)
from coreframe.plugin import KINDS

FAILED, USAGE, NOT_BETTER, BAD_DATA, INTERRUPTED = 1, 2, 3, 4, 130


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake gets one line, no traceback."""
    words = sys.argv[1:] if arguments is None else arguments
    with warnings.catch_warnings():
        warnings.simplefilter("always", PluginWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            code = main.main(args=words, prog_name="coreframe", standalone_mode=False)
            return code if isinstance(code, int) else 0
        except click.exceptions.Exit as exit_:
            return exit_.exit_code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            return INTERRUPTED
        except CoreframeError as error:
            if "--debug" in words:
                raise
            click.echo(f"error: {error}", err=True)
            if isinstance(error, DataError):
                return BAD_DATA
            return FAILED if isinstance(error, OutputError | MissingExtra | PluginError) else USAGE
        except Exception as error:  # a plugin's, or ours: one line all the same
            if "--debug" in words:
                raise
            click.echo(f"failed: {type(error).__name__}: {error} (--debug shows more)", err=True)
            return FAILED


def _show_warning(message: Warning | str, *rest: Any) -> None:
    click.echo(f"warning: {message}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(coreframe.__version__, message="coreframe %(version)s")
def main() -> None:
    """Make embeddings better on your own data, with proof, and without PyTorch."""


# Training ------------------------------------------------------------------------------------


def _run_options(command: Any) -> Any:
    """Add the options that every command with a run has."""
    options = [
        click.option("-o", "--out", "--output-dir", "out", type=click.Path(path_type=Path),
                     help="Folder for the results."),
        click.option("--overwrite", is_flag=True, help="Replace files in a folder that has some."),
        click.option("-c", "--config", type=click.Path(path_type=Path), help="A run.toml."),
        click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE",
                     help="Override one value, such as losses.0.temperature=0.1."),
        click.option("--seed", type=click.IntRange(0), help="Seed of all draws."),
        click.option("--side", type=click.Choice(["query", "both"]),
                     help="Adapt queries only (the index stays), or both sides."),
        click.option("--backend", help="numpy, cupy, cupy:1, torch, jax or auto."),
        click.option("--json", "as_json", is_flag=True, help="Print metrics.json, nothing else."),
        click.option("-q", "--quiet", is_flag=True, help="No progress."),
        click.option("-v", "--verbose", is_flag=True, help="Tell more on stderr."),
        click.option("--debug", is_flag=True, help="Show tracebacks."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.option("--quick", is_flag=True, help="A shorter training; the same test.")
@click.option("--embedder", help="An embedder, by name; hashing if nothing says otherwise.")
@_run_options
def demo(quick: bool, embedder: str | None, **options: Any) -> int:
    """See embeddings get better on real data: English emoji names found by German ones."""
    from coreframe import config, demo, outputs

    if quick and options["config"] is not None:
        raise click.UsageError("--quick shortens the demo's own settings; leave out --config")

    options["out"] = options["out"] or Path("coreframe-demo")
    chosen = [] if embedder is None else [f"embedder.name={embedder}"]
    settings = config.read(
        options["config"],
        [*chosen, *_assignments(options)],
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


@main.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--queries", type=click.Path(path_type=Path), help="Vectors of the queries, .npy.")
@click.option("--documents", type=click.Path(path_type=Path),
              help="Vectors of the documents, .npy.")  # fmt: skip
@_run_options
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
    settings = config.read(options["config"], _assignments(options))
    get_backend(settings.train.backend)  # what cannot run is said before any work
    folder = outputs.claim_folder(options["out"], overwrite=options["overwrite"])
    loaded = loading.load_pairs(data, queries=queries, documents=documents, config=settings)
    for line in loaded.notes:
        _tell(options, line)
    inputs = {str(path): outputs.hash_file(path) for path in loaded.files}
    return _train(loaded.pairs, settings, folder, data[0].name, inputs, loaded.base_model, options)


def _assignments(options: Mapping[str, Any]) -> list[str]:
    found = list(options["assignments"])
    for name in ("seed", "side", "backend"):
        if options[name] is not None:
            value = options[name]
            found.append(f"train.{name}={value if name == 'seed' else json.dumps(value)}")
    return found


def _tell(options: Mapping[str, Any], text: str) -> None:
    if not (options["quiet"] or options["as_json"]):
        click.echo(text, err=True)


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
    _tell(options, f"data    {pairs}")
    counts = f"{len(train):,} train · {len(dev):,} dev · {len(test):,} test"
    _tell(options, f"split   {counts} queries, by group: no text and no group on two sides")
    quiet = options["quiet"] or options["as_json"]
    callbacks = [] if quiet else [console.progress(verbose=options["verbose"])]
    outcome = experiment(train, dev, test, settings, base_model=base_model, callbacks=callbacks)
    metrics = outputs.write_run(outcome, settings, folder, title=title, inputs=inputs)
    if options["as_json"]:
        click.echo(outputs.to_json(metrics))
    else:
        console.print_outcome(outcome, folder)
    return 0 if outcome.gate.passed else NOT_BETTER


# Looking around ------------------------------------------------------------------------------


@main.command("list")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(kind: str | None, as_json: bool) -> None:
    """List the components that are registered; imports none of them."""
    kinds = [kind] if kind else list(KINDS)
    rows = [(k, e.name, e.plugin.distribution, e.target) for k in kinds
            for e in registry.registry().entries(k)]  # fmt: skip
    console.print_table(("kind", "name", "distribution", "target"), rows, as_json=as_json)


@main.command()
@click.argument("kind")
@click.argument("name")
def show(kind: str, name: str) -> None:
    """Show one component: what it is, its fields and its defaults."""
    import inspect

    found = registry.registry().find(kind, name)
    component = found.load()
    click.echo(f"{found.name}  ({kind}, {found.target}, of {found.plugin.distribution} "
               f"{found.plugin.version})\n")  # fmt: skip
    click.echo(inspect.getdoc(component) or "")
    if is_dataclass(component):
        click.echo("\nfields:")
        for f in fields(component):
            if f.init:
                default = registry.parameters(component)[f.name].default
                text = "required" if default is inspect.Parameter.empty else repr(default)
                type_ = f.type if isinstance(f.type, str) else inspect.formatannotation(f.type)
                click.echo(f"  {f.name}: {type_} = {text}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List the plugins, whether they work, and how long they took to import."""
    found = registry.registry()
    for kind in KINDS:
        found.entries(kind)  # a hook that raises shows when it is asked
    rows = [
        (p.key, p.version, p.state, f"{1000 * p.seconds:.0f} ms", " ".join(p.kinds), p.error)
        for p in found.plugins
    ]
    console.print_table(
        ("plugin", "version", "state", "import", "offers", "error"), rows, as_json=as_json
    )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backends(as_json: bool) -> None:
    """List the backends: device, version, and why one cannot run here."""
    rows = []
    for entry in registry.registry().entries("backends"):
        try:
            backend = entry.load()()
            reason = backend.missing()
            library = None if reason else sys.modules.get(library_name(backend.xp))
            version = getattr(library, "__version__", "")
            device = "" if reason else str(backend.device)
        except Exception as error:
            reason, version, device = f"{type(error).__name__}: {error}", "", ""
        rows.append((entry.name, device, version, "no" if reason else "ready", reason or ""))
    console.print_table(("backend", "device", "version", "state", "why not"), rows, as_json=as_json)


@main.command()
@click.argument("target", required=False)
@click.option(
    "--kernels",
    metavar="BACKEND",
    is_flag=False,
    flag_value="numpy",
    help="Check a backend's kernels instead: all, or the one that TARGET names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")  # fmt: skip
def check(target: str | None, kernels: str | None, as_json: bool) -> int:
    """Check that a loss or miner keeps its promises, on every backend that is installed.

    TARGET is a registered name, or package.module:Class.
    """
    from coreframe import testing

    if kernels is not None:
        results = testing.check_kernels(kernels, [target] if target else None)
    elif target is not None:
        results = testing.check(target)
    else:
        raise click.UsageError("name a loss or a miner to check, or give --kernels")
    if as_json:
        rows = [{"name": c.name, "promise": c.promise, "ok": c.ok, "detail": c.detail}
                for c in results]  # fmt: skip
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo(testing.report(results))
    return 0 if all(c.ok for c in results) else FAILED
