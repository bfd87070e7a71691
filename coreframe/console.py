"""What the command line prints: tables, the progress of a run, and its evidence."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreframe.callbacks import Callback, Status

if TYPE_CHECKING:  # at run time it would bring NumPy, which listing does not need
    from coreframe.experiment import Outcome


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    """Print rows as aligned text on stdout, or as a JSON list of objects."""
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2))
        return
    widths = [max(len(str(row[i])) for row in [columns, *rows]) for i in range(len(columns))]
    for number, row in enumerate([columns, *rows]):
        line = "  ".join(f"{cell!s:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(click.style(line.rstrip(), bold=number == 0))


def progress(*, verbose: bool) -> Callback:
    """Return a progress bar on a terminal, and plain lines elsewhere."""
    return _Bar() if sys.stderr.isatty() else _Lines(verbose)


class _Lines(Callback):
    """One line an evaluation (all with verbose, else about ten), for logs."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.loss = float("nan")
        self.metric = "ndcg@10"

    def on_start(self, run: Any) -> None:
        self.metric = run.metric
        click.echo(f"train   from {_start(run)}", err=True)

    def on_step(self, status: Status) -> None:
        self.loss = status.values["loss"]

    def on_evaluate(self, status: Status) -> None:
        every = 1 if self.verbose else max(1, status.epochs // 10)
        if status.epoch % every and status.epoch != status.epochs:
            return
        loss = "" if status.epoch == 0 else f"  loss {self.loss:.4f}"
        click.echo(
            f"train   epoch {status.epoch}/{status.epochs}{loss}"
            f"  dev {self.metric} {status.values[self.metric]:.3f}",
            err=True,
        )


class _Bar(Callback):
    """A bar with the loss, the dev metric and the learning rate."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.bar = Progress(
            TextColumn("train  "),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
        )
        self.task: Any = None
        self.parts: dict[str, str] = {}
        self.metric = "ndcg@10"

    def on_start(self, run: Any) -> None:
        self.metric = run.metric
        self.parts = {"start": f"from {_start(run)}"}
        self.task = None  # a second run gets a line of its own
        self.bar.start()

    def on_step(self, status: Status) -> None:
        values = status.values
        self.parts["loss"] = f"loss {values['loss']:.4f}"
        if "learning_rate" in values:
            self.parts["rate"] = f"lr {values['learning_rate']:.1e}"
        self._show(status)

    def on_evaluate(self, status: Status) -> None:
        self.parts["dev"] = f"dev {self.metric} {status.values[self.metric]:.3f}"
        self._show(status)

    def _show(self, status: Status) -> None:
        text = "  ".join(self.parts.values())
        if self.task is None:
            self.task = self.bar.add_task("train", total=status.steps, text=text)
        self.bar.update(self.task, completed=status.step, text=text)

    def on_end(self, run: Any) -> None:
        self.bar.stop()


def _start(run: Any) -> str:
    """Return where a run starts, in words."""
    if run.start is None:
        return "the identity" if run.initial is None else "the earlier run"
    return "the earlier run" if isinstance(run.start, dict) else type(run.start).__name__.lower()


def print_outcome(outcome: Outcome, folder: Path) -> None:
    """Print the evidence: every candidate, the gain with its interval, and the verdict."""
    usual = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
    metrics = tuple(dict.fromkeys((*usual, outcome.gate.metric)))
    head = "".join(f"{m:>11}" for m in metrics)
    click.echo(f"test ({len(outcome.test):,} unseen queries){'':<6}{head}   index")
    for name, candidate in outcome.candidates.items():
        values = candidate.test.mean()
        cells = "".join(f"{values[m]:11.3f}" for m in metrics)
        index = "rebuild" if candidate.adapter.rebuilds_index else "stays"
        label = ("base" if name == "identity" else name) + (" *" if name == outcome.kept else "")
        note = "" if candidate.allowed or name == "identity" else "  (not with side=query)"
        click.echo(f"  {label:<28}{cells}   {index}{note}")
    click.echo(
        f"  * best on dev{f', started from {outcome.start}' if outcome.start != 'identity' else ''}"
    )
    click.echo("")
    click.echo(f"{'':<14}{'base':>9}{'adapted':>10}{'gain':>9}   95% interval")
    for name, g in outcome.comparison.gains.items():
        click.echo(
            f"  {name:<12}{g.base:9.3f}{g.adapted:10.3f}{g.gain:+9.3f}"
            f"   [{g.low:+.3f}, {g.high:+.3f}]"
        )
    g = outcome.comparison.gains[outcome.gate.metric]
    click.echo(f"  {'queries':<12}{g.better} better · {g.worse} worse · {g.same} same")
    _print_forgetting(outcome)
    if outcome.more_labels:
        click.echo("")
        for point in outcome.curve:
            value = point.metrics[outcome.gate.metric]
            click.echo(f"  {point.pairs:>9,} pairs {value:9.3f}  {outcome.gate.metric}")
        click.echo(f"  {outcome.more_labels}")
    elif outcome.no_curve:
        click.echo(f"  learning curve: {outcome.no_curve}")
    click.echo("")
    gate = outcome.gate
    if gate.passed:
        click.echo(click.style(f"✓ better: {gate.reason}", fg="green"))
        click.echo(f"  promoted: {outcome.promoted}   {outcome.seconds:.1f} s")
    else:
        click.echo(click.style(f"✗ no proof of gain: {gate.reason}", fg="red"))
        stays = "the earlier adapter stays" if outcome.continued else "identity kept"
        click.echo(f"  {stays}, nothing promoted   exit 3")
        click.echo(f"  {gate.hint}")
    if outcome.if_rebuilt:
        click.echo(f"  {outcome.if_rebuilt}")
    click.echo(f"  {folder / 'report.html'}")
    if gate.passed:
        click.echo(f"  use it: coreframe.load({str(folder)!r})(queries)")


def _print_forgetting(outcome: Outcome) -> None:
    """Print what a run that went on gained over the earlier adapter, and what it forgot."""
    if outcome.over_previous is None or outcome.trial is None:
        return
    metric, trial = outcome.gate.metric, outcome.trial
    click.echo("")
    held = "not held" if trial.hold == "none" else f"held by {trial.hold} {trial.strength:g}"
    click.echo(
        f"{metric}, {held}{'':<4}queries     base   before    after    change   95% interval"
    )
    rows = [("new: test", len(outcome.test), outcome.over_previous.gains[metric], "")]
    rows += [
        (row.name, row.queries, row.gain, "  FORGOTTEN" if row.forgotten else "")
        for row in outcome.forgetting
    ]
    bases = [outcome.candidates["identity"].test.mean(), *(row.base for row in outcome.forgetting)]
    width = max(len(f"{metric}, {held}") + 2, *(len(row[0]) for row in rows))
    for (name, queries, g, mark), base in zip(rows, bases, strict=True):
        click.echo(
            f"  {name:<{width}}{queries:>9,}{base[metric]:9.3f}{g.base:9.3f}{g.adapted:9.3f}"
            f"{g.gain:+10.3f}   [{g.low:+.3f}, {g.high:+.3f}]{mark}"
        )
    if not outcome.forgetting:
        click.echo("  nothing measures what was forgotten: give earlier sets with --keep")
