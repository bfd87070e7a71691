"""``check``: does a component, a plugin, a backend keep its promises?"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import click

from coreframe.cli.common import FAILED, USAGE

if TYPE_CHECKING:  # the kit brings NumPy, and what else it checks with
    from coreframe.testing.checks import Check
    from coreframe.testing.suites import Suite


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Give the component a field, as in a run.toml: scale=5.0. For a plugin, "
    "losses:soft_margin.scale=5.0.",
)
@click.option(
    "-k",
    "--only",
    "only",
    multiple=True,
    metavar="NAME",
    help="Check this promise alone, and no other; may be repeated.",
)
@click.option(
    "--kernels",
    metavar="BACKEND",
    is_flag=False,
    flag_value="numpy",
    help="Check a backend's kernels instead: all, or those that TARGET names.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show every promise, also those kept.")
@click.option("-q", "--quiet", is_flag=True, help="Show what is broken, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")  # fmt: skip
def check(
    targets: tuple[str, ...],
    assignments: tuple[str, ...],
    only: tuple[str, ...],
    kernels: str | None,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Check that components keep their promises, on every array library that is installed.

    TARGET is a registered name (soft_margin, losses:soft_margin), an import target
    (package.module:Class), a backend (backends:numpy, backends:torch:cuda) or a distribution
    (soft-margin-plugin), whose package and components are all checked.

    The exit code is 0 if all promises are kept, 1 if one is broken, and 2 if there is a TARGET of
    which nothing could be checked, such as a device that is not there.
    """
    if not targets and kernels is None:
        raise click.UsageError("name a component or a plugin to check, or give --kernels")
    if kernels is not None and (assignments or only):
        raise click.UsageError("--kernels takes no --set and no --only; name kernels as TARGET")
    groups = (
        _kernels(kernels, targets)
        if kernels is not None
        else _groups(_suites(targets, assignments, only), only)
    )
    shown = _Shown(verbose=verbose, quiet=quiet)
    found: list[tuple[str, Check]] = []
    unseen: dict[str, str] = {}
    for target, title, about, outcomes in groups:
        start = time.perf_counter()
        with _told(f"checking {title}", quiet or as_json):
            outcomes = list(outcomes)
        found += [(title, outcome) for outcome in outcomes]
        reason = _unseen(outcomes)
        unseen[target] = unseen.get(target, reason) and reason
        if not as_json:
            shown.group(title, about, outcomes, time.perf_counter() - start)
    if as_json:
        click.echo(json.dumps([_row(title, outcome) for title, outcome in found], indent=2))
    else:
        shown.total([outcome for _, outcome in found])
    if not all(outcome for _, outcome in found):
        return FAILED
    for target, reason in unseen.items():
        if reason:
            click.secho(f"{target}: {reason}", fg="red", err=True)
    return USAGE if any(unseen.values()) else 0


# What is checked ----------------------------------------------------------------------------

Group = tuple[str, str, str, "Iterable[Check]"]
"""The target that it belongs to, a title, what is checked in a line, and the outcomes."""


def _suites(
    targets: Sequence[str], assignments: Sequence[str], only: Sequence[str]
) -> list[tuple[str, Suite]]:
    from coreframe.testing import suites, target

    if assignments and len(targets) > 1:
        raise click.UsageError("--set is for one TARGET; check them one after the other")
    found = [
        (each, suite)
        for each in targets
        for suite in target.suites(each, _fields(assignments), make=_made)
    ]
    suites.known([suite for _, suite in found], only)
    return found


def _made(kind: type, fields: Mapping[str, Any]) -> Any:
    """Make a component of values as a file has them; a backend takes texts as they are."""
    from coreframe import config

    return config.made_of(kind, fields) if is_dataclass(kind) else kind(**fields)


def _fields(assignments: Sequence[str]) -> dict[str, Any]:
    """Return what --set says: fields, or for "kind:name.field" a table of them by "kind:name"."""
    from coreframe.config.reading import toml_value

    found: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not path:
            raise click.UsageError(f"--set {assignment!r} must be FIELD=VALUE, such as scale=5.0")
        owner, _, name = path.rpartition(".")
        place = found.setdefault(owner, {}) if owner else found
        place[name] = toml_value(text)
    return found


def _groups(found: Iterable[tuple[str, Suite]], only: Sequence[str]) -> Iterator[Group]:
    for target, suite in found:
        if not only or any(promise.name in only for promise in suite.promises):
            yield target, suite.title, suite.about, suite.run(only)


def _kernels(backend: str, names: Sequence[str]) -> Iterator[Group]:
    from coreframe import testing

    title = f"kernels of {backend}"
    yield title, title, "", testing.check_kernels(backend, names or None)


def _unseen(outcomes: Sequence[Check]) -> str:
    """Return why nothing that matters could be checked, or "": whoever cannot be used here may
    still have a name and a form.
    """
    use = [outcome for outcome in outcomes if outcome.name == "usable"] or outcomes
    if any(outcome.checked for outcome in use):
        return ""
    return use[0].detail if use else "not checked: there is nothing to check"


# What is shown ------------------------------------------------------------------------------


def _row(title: str, outcome: Check) -> dict[str, Any]:
    return {
        "target": title,
        "name": outcome.name,
        "promise": outcome.promise,
        "ok": outcome.ok,
        "checked": outcome.checked,
        "detail": outcome.detail,
        "seconds": outcome.seconds,
    }


@contextlib.contextmanager
def _told(text: str, silent: bool) -> Iterator[None]:
    """Say on a terminal what is going on."""
    if silent or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


class _Shown:
    """Prints outcomes: what is broken in full, and what is kept in as few lines as asked for."""

    def __init__(self, *, verbose: bool, quiet: bool) -> None:
        self.verbose, self.quiet = verbose, quiet

    def group(self, title: str, about: str, outcomes: Sequence[Check], seconds: float) -> None:
        broken = [outcome for outcome in outcomes if not outcome]
        if self.quiet and not broken:
            return
        click.echo(
            click.style(title, bold=True) + (f"  {about}" if about else "") + f"  {seconds:.1f} s"
        )
        for outcome in outcomes if self.verbose else broken:
            self._whole(outcome)
        if not (self.verbose or self.quiet):
            self._compact([outcome for outcome in outcomes if outcome])

    def _whole(self, outcome: Check) -> None:
        word = "ok  " if outcome.ok and outcome.checked else "skip" if outcome.ok else "FAIL"
        colour = {"ok  ": "green", "skip": "yellow", "FAIL": "red"}[word]
        click.echo(f"  {click.style(word, fg=colour)}  {outcome.name}: {outcome.promise}")
        for line in outcome.detail.splitlines():
            click.echo(f"          {line}")

    def _compact(self, kept: Sequence[Check]) -> None:
        """Print the names of what is kept in one paragraph, and each remark in a line."""
        plain = [outcome.name for outcome in kept if not outcome.detail]
        if plain:
            text = click.wrap_text(
                ", ".join(plain), 96, initial_indent="        ", subsequent_indent="        "
            )
            click.echo(f"  {click.style('ok', fg='green')}    {text.strip()}")
        reasons: dict[str, list[str]] = {}
        for outcome in kept:
            if outcome.detail:
                reasons.setdefault(outcome.detail, []).append(outcome.name)
        for reason, names in reasons.items():
            word = "ok  " if not reason.startswith("not checked") else "skip"
            click.echo(f"  {click.style(word, fg='yellow')}  {', '.join(names)}: {reason}")

    def total(self, outcomes: Sequence[Check]) -> None:
        from coreframe.testing.checks import summary

        broken = not all(outcomes)
        if broken or not self.quiet:
            colour = "red" if broken else "green" if any(o.checked for o in outcomes) else "yellow"
            click.secho(summary(outcomes), fg=colour, bold=True)
