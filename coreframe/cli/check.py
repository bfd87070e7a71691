"""``check``: does a component keep its promises?"""

from __future__ import annotations

import json

import click

from coreframe.cli.common import FAILED


@click.command()
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
