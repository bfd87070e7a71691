"""Continual learning on the standard library: a second task, without losing the first.

One adapter of queries learns to find source code by its docstring, first in modules about windows
and concurrency, then in modules about the net and data formats. Trained on without a care, it
forgets part of the first task. Elastic weight consolidation holds the parameters in place that
the first task needs, as far as its Fisher information says so; a pull of the same kind that holds
all parameters alike (l2) is beside it.

    python examples/continual_learning.py                                   the test parts
    python examples/continual_learning.py --part dev --ewc 0.01 0.02 0.05 --l2 0.01 0.02 0.05

The strengths that the first command uses were chosen by the second, on the dev parts.
"""

from __future__ import annotations

import argparse
import ast
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import coreframe as cf
from coreframe.compose import under

TASKS = (
    "tkinter turtle asyncio multiprocessing threading concurrent logging",
    "email mailbox http urllib xml html wsgiref ftplib imaplib json ipaddress datetime statistics "
    "_pydecimal",
)
METRIC = "ndcg@10"


def functions(module: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (first paragraph of the docstring, source without it) of each function of a module.

    Of a module that is not installed, as tkinter may not be, there are none.
    """
    for path in sorted([*folder.glob(f"{module}.py"), *folder.glob(f"{module}/**/*.py")]):
        if {"test", "tests"} & set(path.relative_to(folder).parts):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node)
                if doc and len(node.body) > 1:
                    node.body = node.body[1:]
                    yield " ".join(doc.split("\n\n")[0].split()), ast.unparse(node)


def read_task(modules: str, embedder: cf.Embedder) -> cf.Pairs:
    folder = Path(sysconfig.get_path("stdlib"))
    found = [row for module in modules.split() for row in functions(module, folder)]
    docs, sources = zip(*found, strict=True)
    return cf.Pairs.from_texts(docs, sources, embedder)


def run(
    tasks: Sequence[cf.Pairs], part: str, seed: int, strengths: dict[str, Sequence[float]]
) -> dict[str, tuple[float, float]]:
    """Return the quality on both tasks after the first, and after the second in several ways."""
    (train, *held), (train_two, *held_two) = (task.split(0.15, 0.25, seed=seed) for task in tasks)
    measured = [parts[part == "test"] for parts in (held, held_two)]
    adapter = cf.build("adapters", "linear")
    loss = cf.build("losses", "info_nce", temperature=0.05)
    fixed = {
        "adapter": adapter,
        "loss": loss,
        "optimizer": cf.build("optimizers", "adamw", learning_rate=3e-3),
        "epochs": 20,
        "seed": seed,
    }

    def quality(learned: cf.Run) -> tuple[float, float]:
        one, two = (cf.evaluate(learned.adapter, pairs).mean()[METRIC] for pairs in measured)
        return one, two

    first = cf.fit(train, **fixed)
    own = under("adapter", first.params)
    matters = cf.fisher(adapter, own, loss, cf.Batches(pairs=train, batch_size=256))
    keep = cf.build("regularizers", "ewc", strength=1.0).learned(own, matters.normalized("mean"))
    table = {
        "after task one": quality(first),
        "task two, unprotected": quality(cf.fit(train_two, initial=first.params, **fixed)),
    }
    for name, values in strengths.items():
        for strength in values:
            if name == "ewc":
                term = cf.build("regularizers", "ewc", strength=strength, tasks=keep.tasks)
            else:
                term = cf.build("regularizers", "l2", strength=strength)
            second = cf.fit(train_two, initial=first.params, regularizers=(term,), **fixed)
            table[f"task two, {name} {strength:g}"] = quality(second)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("dev", "test"), default="test", help="what to measure")
    parser.add_argument("--ewc", type=float, nargs="*", default=[0.02], help="strengths")
    parser.add_argument("--l2", type=float, nargs="*", default=[0.02], help="strengths")
    parser.add_argument("--seeds", type=int, default=3, help="runs to average over")
    options = parser.parse_args()
    embedder = cf.build("embedders", "hashing", dimensions=256)
    tasks = [read_task(modules, embedder) for modules in TASKS]
    strengths = {"ewc": options.ewc, "l2": options.l2}
    runs = [run(tasks, options.part, seed, strengths) for seed in range(options.seeds)]
    print(f"{METRIC} on the {options.part} parts, means over {options.seeds} seeds")
    print(f"{'':24}{'task one':>10}{'forgotten':>11}{'task two':>10}")
    start = np.mean([table["after task one"][0] for table in runs])
    for name in runs[0]:
        one, two = np.mean([table[name] for table in runs], axis=0)
        print(f"{name:24}{one:10.4f}{start - one:11.4f}{two:10.4f}")


if __name__ == "__main__":
    main()
