"""Code search on the standard library: find a function's source by its docstring.

Pairs of (first paragraph of a docstring, source of the function without it), read with ``ast``
from the interpreter that runs this; split by module. Here whitening, which needs no labels,
brings most of the gain, and the table says so.

    python examples/code_search.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import coreframe as cf
from coreframe import config, console, outputs
from coreframe.experiment import experiment

SETTINGS = """\
[data]
dev = 0.1
test = 0.2

[embedder]
name = "hashing"

[adapter]
name = "linear"

[[losses]]
name = "info_nce"
temperature = 0.05

[optimizer]
name = "adamw"
learning_rate = { scheduler = "warmup_cosine", peak = 1e-3 }

[train]
epochs = 10
batch_size = 512
side = "both"
start = "auto"
"""


def functions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (first paragraph of the docstring, source without it) of each function in a file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if not doc or len(node.body) < 2:
                continue
            node.body = node.body[1:]
            paragraph = " ".join(doc.split("\n\n")[0].split())
            if len(paragraph) >= 20:
                yield paragraph, ast.unparse(node)


def rows() -> list[tuple[str, str, str]]:
    """Return (docstring, source, module) for the standard library, without its tests."""
    folder = Path(sysconfig.get_path("stdlib"))
    skip = {"test", "tests", "idlelib", "site-packages", "lib2to3", "__pycache__"}
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if not skip & set(parts):
            module = parts[0].removesuffix(".py")
            found += [(doc, source, module) for doc, source in functions(path)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="code-search", help="folder for the results")
    folder = outputs.claim_folder(parser.parse_args().out, overwrite=True)
    settings = config.read(default=SETTINGS)
    docs, sources, modules = zip(*rows(), strict=True)
    pairs = cf.Pairs.from_texts(docs, sources, settings.embedder, groups=modules)
    print(f"{pairs}, {len(set(modules))} modules", file=sys.stderr)
    train, dev, test = pairs.split(settings.data.dev, settings.data.test, seed=42)
    outcome = experiment(train, dev, test, settings, callbacks=[console.progress(verbose=False)])
    title = "Code search: docstring to source, Python's standard library"
    outputs.write_run(outcome, settings, folder, title=title, inputs={})
    console.print_outcome(outcome, folder)
    return 0 if outcome.gate.passed else 3


if __name__ == "__main__":
    sys.exit(main())
