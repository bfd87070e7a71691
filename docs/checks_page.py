"""docs/checks.md, made from the promises of the kit: every check of every kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coreframe.testing import target
from coreframe.testing.checks import Promise
from coreframe.testing.kernels import compare
from coreframe.testing.plugins import promises
from coreframe.testing.shared import SHARED

INTRODUCTION = """\
# What the kit checks

Every promise of every kind of component, with what to do where it is broken. `coreframe check`
prints the same words, with what was found; [Testing](testing.md) says how it is used. A promise has
the same name on the command line (`-k gradient`), in pytest (`[SoftMargin()-gradient]`) and here.
"""

TITLES = {
    "losses": "`check_loss`: losses",
    "miners": "`check_miner`: miners",
    "optimizers": "`check_optimizer`: optimizers",
    "schedulers": "`check_scheduler`: schedulers",
    "regularizers": "`check_regularizer`: regularizers",
    "adapters": "`check_adapter`: adapters",
    "samplers": "`check_sampler`: samplers",
    "embedders": "`check_embedder`: embedders",
    "callbacks": "`check_callback`: callbacks",
    "backends": "`check_backend`: backends",
}


def page() -> str:
    """Return the text of the page."""
    shared = {promise.name for promise in SHARED}
    parts = [INTRODUCTION.rstrip(), "## All components", table(SHARED)]
    count = len(SHARED)
    for kit in target.KITS:
        own = [promise for promise in kit.promises if promise.name not in shared]
        count += len(own)
        parts += [f"## {TITLES[kit.kind]}", table(own)]
    parts += ["## `check_plugin`: whole plugins", table(promises.PROMISES)]
    parts += [
        "## `check_kernels`: kernels of a backend",
        "One promise for each kernel, by its name.",
        rows([("NAME", compare.SENTENCE, compare.FIX)]),
    ]
    count += len(promises.PROMISES) + 1
    parts.insert(1, f"There are {count} in all.")
    return "\n\n".join(parts) + "\n"


def table(promises: Sequence[Promise]) -> str:
    """Return a table of promises."""
    return rows([(promise.name, promise.sentence, promise.fix) for promise in promises])


def rows(found: Sequence[tuple[str, str, str]]) -> str:
    lines = [f"| `{name}` | {cell(sentence)} | {cell(fix)} |" for name, sentence, fix in found]
    return "\n".join(["| name | promise | to fix |", "|---|---|---|", *lines])


def cell(text: str) -> str:
    """Return a sentence as it may stand in a table: nothing in it is a mark by accident."""
    pieces = text.replace("|", "\\|").split("`")
    pieces[::2] = [re.sub(r"([*_<])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)
