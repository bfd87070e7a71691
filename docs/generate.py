"""Write docs/components/ from the docstrings: one page for every component, and an index.

    python docs/generate.py            write what changed, remove pages of nothing
    python docs/generate.py --check    change nothing; name what is stale and exit with 1

A docstring that lacks something gets no page, but a line that names the component and what is
missing, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from types import ModuleType
from typing import Any

import checks_page
import presets_page
from making import command_line, formulas, pictures
from making.markdown import blocks, cell, inline, methods, table

import coreframe
from coreframe import registry
from coreframe.component import NO_PRESETS
from coreframe.testing.docstrings import (
    OPTIONAL,
    SECTIONS,
    Doc,
    Incomplete,
    parameters,
    read,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "components"

KINDS = {
    "losses": """What is minimised, with its exact gradient: `loss(anchors, positives)`, or
        `loss.value_and_grad(batch)` for every other relation, returns a value and gradients.""",
    "miners": """Which of the pairs of a batch are worth learning from: `miner.mine(batch, rng=rng)`
        returns the narrower relation, and the loss `mined` or `fit` puts both together.""",
    "optimizers": """How parameters follow their gradients: `state = optimizer.init(params)`, then
        `params, state = optimizer.update(params, grads, state)`. Nothing is written in place.""",
    "schedulers": """Values that change during a run; any numeric hyperparameter may be one.
        `schedule.at(step, steps)` is its value, and `fit` asks it before each update.""",
    "regularizers": """Terms beside the loss, on parameters or on embeddings:
        `regularizer.value_and_grad(arrays)`, or `fit(..., regularizers=[...])`.""",
    "adapters": """The small maps that are trained on top of frozen embeddings:
        `params = adapter.init(rng, d)`, then `y, pullback = adapter.forward(params, x)`; or `fit`
        does it all. `procrustes` and `whitening` are computed at once, without training.""",
    "samplers": "Which examples stand in a batch together: `fit(..., sampler=...)`.",
    "embedders": "Texts to vectors: `embedder.embed(texts)` is (n, d).",
    "callbacks": "What happens around the steps of a run: `fit(..., callbacks=[...])`.",
    "core": "What is no plugin: the parts that components are made of and fed with.",
}
"""The kinds that have pages, in the order of the index. Backends: see docs/backends.md."""

CORE = {
    # from texts to batches
    "example": "coreframe.data.examples:Example",
    "preprocessor": "coreframe.data.preprocess:Preprocessor",
    "word_tokenizer": "coreframe.data.tokenizer:WordTokenizer",
    "augmentation": "coreframe.data.augment:Augmentation",
    "cached": "coreframe.data.cache:Cached",
    "embedding_cache": "coreframe.data.cache:EmbeddingCache",
    "load_pairs": "coreframe.data.loading:load_pairs",
    "disk_cached": "coreframe.data.disk_cache:DiskCached",
    "disk_cache": "coreframe.data.disk_cache:DiskCache",
    "pairs": "coreframe.data.pairs:Pairs",
    "mine_hard_negatives": "coreframe.data.mining:mine_hard_negatives",
    "order": "coreframe.data.batches:Order",
    "batches": "coreframe.data.batches:Batches",
    "batch": "coreframe.batch:Batch",
    # losses, and what changes during a run
    "pairwise": "coreframe.tiles:pairwise",
    "row_loss": "coreframe.row_loss:RowLoss",
    "ranking_miner": "coreframe.miner:RankingMiner",
    "progress": "coreframe.scheduler:Progress",
    "stage": "coreframe_schedulers.curriculum:Stage",
    # training
    "fit": "coreframe.trainer:fit",
    "checkpoints": "coreframe.checkpoint:Checkpoints",
    "clip_by_global_norm": "coreframe.gradients:clip_by_global_norm",
    "clip_by_value": "coreframe.gradients:clip_by_value",
    "global_norm": "coreframe.gradients:global_norm",
    "accumulation": "coreframe.gradients:Accumulation",
    "moving_average": "coreframe.gradients:MovingAverage",
    "checkpointed": "coreframe.recompute:checkpointed",
    "cached_step": "coreframe.cached:cached_step",
    "savings": "coreframe.recompute:savings",
    "merge": "coreframe_adapters.low_rank:merge",
    "fisher": "coreframe.fisher_information:fisher",
    "update": "coreframe.continual:update",
    "read_run": "coreframe.runs:read_run",
    "save_state": "coreframe.state:save_state",
    "load_state": "coreframe.state:load_state",
}
"""Parts of the core that have a page, in the order of the index: name, and what it is about."""

OTHERS: dict[str, Callable[[], str]] = {
    "checks.md": checks_page.page,
    "cli.md": command_line.page,
    "presets.md": presets_page.page,
}
"""Other pages that are made, by path below docs/: a function that returns the text."""

START = """\
Where to start: [`info_nce`](losses/info_nce.md) on an [adapter](#adapters), the miner
[`hardest`](miners/hardest.md), the optimizer [`adamw`](optimizers/adamw.md) and the schedule
[`warmup_cosine`](schedulers/warmup_cosine.md) are what `coreframe demo` trains with.
"""

NOTATION = """\
## notation

| symbol | means |
|---|---|
| n, m, k, d | numbers of anchors (or rows), references, negatives per anchor; width of a vector |
| aᵢ, rⱼ | anchor i and reference j; p is a positive of the anchor, n a negative |
| sᵢⱼ | their similarity, by the field `similarity`; a larger one is more alike |
| d(a, r) | a distance: minus the similarity, where the page says nothing else |
| ℓᵢ | the loss of anchor i; the value is their mean, or what the field `reduction` says |
| t; N, T | the step, from 0; the steps of a schedule, and of the run (the field `steps`) |
| W, D | the steps of the warm-up and of the fall |
| p, g; m, v | in optimizers and regularizers: parameter, gradient; what is kept of earlier ones |
| x, y; Q, D | in adapters: rows in and out; the queries and the documents |
"""

# Examples -------------------------------------------------------------------------------------


def example(target: Any, text: str) -> str:
    """Return the doctest with the imports that it needs to run outside of its module."""
    lines = text.splitlines()
    prompts = [line[4:] for line in lines if line.startswith((">>> ", "... "))]
    at = next(i for i, line in enumerate(lines) if not re.match(r">>> (import|from) ", line))
    lines[at:at] = [f">>> {line}" for line in imports(target, "\n".join(prompts))]
    done: list[str] = []
    code: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        if paragraph.startswith(">>> "):
            code += ["", paragraph] if code else [paragraph]
        else:
            done += [f"```python\n{chr(10).join(code)}\n```", blocks(paragraph)]
            code = []
    if code:
        done.append(f"```python\n{chr(10).join(code)}\n```")
    return "\n\n".join(done)


def imports(target: Any, source: str) -> list[str]:
    """Return import lines for the names that an example takes from its module."""
    used: set[str] = set()
    made = set(vars(builtins))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(a.asname or a.name).partition(".")[0] for a in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
    names = vars(importlib.import_module(target.__module__))
    modules: list[str] = []
    homes: dict[str, list[str]] = {}
    for name in sorted(name for name in used if name in names and name not in made):
        value = names[name]
        if isinstance(value, ModuleType):
            alias = f" as {name}" if value.__name__ != name else ""
            modules.append(f"import {value.__name__}{alias}")
        else:
            home = getattr(value, "__module__", None) or target.__module__
            homes.setdefault("coreframe" if name in coreframe.__all__ else home, []).append(name)
    return modules + [f"from {home} import {', '.join(homes[home])}" for home in sorted(homes)]


# Pages ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Component:
    """What a page is about."""

    kind: str
    name: str
    target: str

    @property
    def path(self) -> Path:
        return Path(self.kind, f"{self.name}.md")

    def load(self) -> Any:
        try:
            return registry.import_target(self.target)
        except ImportError as error:
            raise Incomplete(f"{self.kind}/{self.name} ({self.target}): {error}") from error

    def doc(self) -> Doc:
        """Return the docstring; raise Incomplete, naming component and section."""
        where = f"{self.kind}/{self.name} ({self.target})"
        doc = read(where, vars(self.load()).get("__doc__") or self.load().__doc__ or "")
        missing = [name for name in SECTIONS[1:] if name not in doc.sections]
        if not doc.example:
            missing.append("Example (>>>)")
        if missing:
            raise Incomplete(f"{where}: missing: {', '.join(missing)}")
        return doc


def components() -> list[Component]:
    """Return all of our own components, in the order of the index."""
    found = registry.registry()
    if failed := [p for p in found.plugins if p.built_in and p.state != "loaded"]:
        raise SystemExit(f"{failed[0].key} is not loaded: {failed[0].error or failed[0].state}")
    ours = [
        Component(kind, entry.name, entry.target)
        for kind in KINDS
        if kind != "core"
        for entry in sorted(found.entries(kind), key=lambda entry: entry.name)
        if entry.plugin.built_in
    ]
    return ours + [Component("core", name, target) for name, target in CORE.items()]


def page(component: Component) -> str:
    """Return the page of a component. Raise Incomplete if its docstring is not."""
    target, doc = component.load(), component.doc()
    where = f"{component.kind}/{component.name} ({component.target})"
    given = parameters(where, target, doc)
    module, _, attribute = component.target.partition(":")
    source = (
        Path(inspect.getsourcefile(inspect.unwrap(target)) or "")
        .resolve()
        .relative_to(ROOT)
        .as_posix()
    )
    home = "coreframe" if attribute in coreframe.__all__ else module
    use = f"from {home} import {attribute}"
    if component.kind != "core":
        use += f'\n\n# or by name: coreframe.build("{component.kind}", "{component.name}", ...)'
    parts = [
        f"[Components](../README.md) › [{component.kind}](../README.md#{component.kind}) › "
        f"`{component.name}`",
        f"# {attribute}",
        inline(doc.summary),
        f"```python\n{use}\n```",
    ]
    if doc.body:
        parts += ["## Definition", definition(component, doc, [p.name for p in given])]
    if drawn := pictures.picture(component.kind, component.name):
        caption = pictures.caption(drawn)
        parts += [f"![{caption}]({component.name}.svg)", f"*{caption}.*"]
    own = [p for p in given if p.owner == target.__name__]
    own.sort(key=lambda p: list(doc.fields).index(p.name))  # in the order of the docstring
    if own:
        parts += ["## Parameters", table(own)]
    for base in dict.fromkeys(p.owner for p in given if p.owner != target.__name__):
        parts += [
            f"{'### Inherited' if own else '## Parameters, inherited'} from {base}",
            table([p for p in given if p.owner == base]),
        ]
    if lines := methods(target):
        parts += ["## Methods", "\n".join(["| Method | What it does |", "|---|---|", *lines])]
    if isinstance(target, type) and (known := getattr(target, "presets", NO_PRESETS)):
        parts += ["## Presets", presets_page.of(target, known)]
    titles = {"Edges": "Edge cases", "Parameters": "Trained parameters"}
    for name in (*OPTIONAL, *SECTIONS):
        if name != "Args" and name in doc.sections:
            text = blocks(doc.sections[name])
            # In the docstring the words follow "Shapes:"; here they begin a paragraph.
            text = re.sub(
                r"^([a-z]{2,}(?=[ ,;]|[:.](?![\w/]))|a(?= [A-Za-z]{2}))",
                lambda found: found[0].capitalize(),
                text,
            )
            parts += [f"## {titles.get(name, name)}", text]
    parts += ["## Example", example(target, doc.example)]
    parts += [f"---\n\nMade from the docstring in [{source}](../../../{source})."]
    return "\n\n".join(parts) + "\n"


def definition(component: Component, doc: Doc, fields: list[str]) -> str:
    """Return formula and prose: the formula typeset where there is such a one."""
    text, formula = blocks(doc.body), formulas.of(component.kind, component.name)
    if formula is None:
        return text
    plain = re.compile(r"```text\n.*?\n```", re.DOTALL)
    text = plain.sub(lambda _: formulas.block(formula), text, count=1)
    legend = formulas.legend(formula, fields)
    if formulas.letters(formula):
        there = "symbols are under [notation](../README.md#notation)."
        legend = f"{legend.removesuffix('.')}; other {there}" if legend else f"The {there}"
    return f"{text}\n\n{legend}".strip()


def index(found: list[Component]) -> str:
    """Return the page that lists all pages."""
    parts = ["# Components", textwrap.dedent(INTRODUCTION).strip(), START.strip()]
    for kind, about in KINDS.items():
        rows = [c for c in found if c.kind == kind]
        if rows:
            lines = [
                f"| [{c.name}]({c.path.as_posix()}) | {cell(inline(c.doc().summary))} |"
                for c in rows
            ]
            parts += [
                f"## {kind}",
                inline(about),
                "\n".join(["| name | what it is |", "|---|---|", *lines]),
            ]
    return "\n\n".join([*parts, NOTATION.strip()]) + "\n"


INTRODUCTION = """\
Everything coreframe comes with, a page each. All of it works in three ways: as a class on plain
arrays, by its name in [the file of a run](../configuration.md) (`[[losses]] name = "info_nce"`),
and by its name in Python, `coreframe.build("losses", "info_nce", temperature=0.05)`.
`coreframe list` shows the same names with those of the plugins that you have installed.

A type with `Scheduler` in it takes a number or a [schedule](#schedulers). What the letters of
formulas stand for is under [notation](#notation).
"""


def generate() -> tuple[dict[Path, str], list[str]]:
    """Return all pages and pictures by path below docs/components, and what docstrings lack."""
    pages: dict[Path, str] = {}
    problems, complete = [], []
    for component in components():
        try:
            pages[component.path] = page(component)
            complete.append(component)
            if drawn := pictures.picture(component.kind, component.name):
                pages[component.path.with_suffix(".svg")] = drawn
        except Incomplete as problem:
            problems.append(str(problem))
    pages[Path("README.md")] = index(complete)
    pages |= {Path("..", name): text() for name, text in OTHERS.items()}
    return pages, problems


def stale(pages: dict[Path, str]) -> list[Path]:
    """Return the pages whose files differ, are missing, or are there without a component."""
    there = {p.relative_to(FOLDER) for p in FOLDER.rglob("*.*")}
    changed = {p for p in pages if not (FOLDER / p).exists() or differs(p, pages[p])}
    incomplete = {c.path for c in components()} - set(pages)
    return sorted(changed | there - incomplete - set(pages))


def differs(path: Path, text: str) -> bool:
    """Whether a file says something else; a picture may by a tenth, which is another machine's."""
    before = (FOLDER / path).read_text("utf-8")
    if path.suffix != ".svg" or before == text:
        return before != text
    number = re.compile(r"-?\d+(?:\.\d+)?")
    old, new = (list(map(float, number.findall(part))) for part in (before, text))
    moved = any(abs(a - b) > 0.11 for a, b in zip(old, new, strict=False))
    return moved or number.sub("", before) != number.sub("", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    only_check = parser.parse_args().check
    pages, problems = generate()
    for path in (old := stale(pages)):
        if only_check:
            print(f"stale: {normpath(f'docs/components/{path.as_posix()}')}")
        elif path in pages:
            (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
            (FOLDER / path).write_text(pages[path], "utf-8")
        else:
            (FOLDER / path).unlink()
    for problem in problems:
        print(f"incomplete: {problem}", file=sys.stderr)
    return int(bool(problems or (only_check and old)))


if __name__ == "__main__":
    sys.exit(main())
