"""What the documents say is true: their code runs, their names exist, nothing is left out."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import itertools
import re
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import coreframe
from coreframe import cli, config, registry
from coreframe.data.files import NAMES
from coreframe.errors import MissingExtra
from coreframe.plugin import HOOKS, KINDS

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "components" not in p.parts),
]
SOURCES = [
    *(ROOT / "coreframe").rglob("*.py"),
    *(ROOT / "backends").rglob("*.py"),
    *(ROOT / "plugins").rglob("*.py"),
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code of a document, and the line that it starts at."""

    page: Path
    language: str
    code: str
    line: int
    output: str = ""
    """What the page says it prints: the block of text that follows at once."""

    def run(self, names: dict[str, Any]) -> None:
        """Run Python in a namespace; a traceback shows the line of the document."""
        source = "\n" * (self.line - 1) + self.code
        with contextlib.redirect_stdout(io.StringIO()) as told:
            exec(compile(source, str(self.page), "exec"), names)
        if self.output:
            assert says(told.getvalue(), self.output), f"it prints\n{told.getvalue()}"


def says(printed: str, shown: str) -> bool:
    """Compare what is printed with what a page shows: "..." stands for anything, and numbers,
    which differ from machine to machine, and the breaks of long lines do not count.
    """
    rules = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found, wanted = (re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "0", text) for text in (printed, shown))
    return doctest.OutputChecker().check_output(wanted, found, rules)


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    return [
        Block(page, m[1], m[2], text.count("\n", 0, m.start(2)) + 1, _output(text, m, after))
        for m, after in itertools.zip_longest(fences, fences[1:])
        if m[1] in languages
    ]


def _output(text: str, block: re.Match[str], after: re.Match[str] | None) -> str:
    follows = after and after[1] == "text" and not text[block.end() : after.start()].strip()
    return after[2] if after and follows and block[1] == "python" else ""


def name_of(value: object) -> str:
    if isinstance(value, Block):
        return f"{value.page.name}:{value.line}"
    return value.name if isinstance(value, Path) else str(value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own to run in, with vectors whose queries a linear map improves."""
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(250, 32))
    turn = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    queries = 0.5 * documents + documents @ turn + 0.2 * rng.normal(size=(250, 32))
    np.save(tmp_path / "queries.npy", queries.astype(np.float32))
    np.save(tmp_path / "documents.npy", documents.astype(np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COREFRAME_BACKEND", "")  # documents may set it; this puts it back
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write_module(block: Block, folder: Path, names: dict[str, Any]) -> None:
    """Write a block that names its file, import it, and take over its names, as if in the file."""
    path = block.code.splitlines()[0].removeprefix("# ")
    target = folder / path
    target.parent.mkdir(exist_ok=True)
    target.write_text(block.code, encoding="utf-8")
    name = path.removesuffix(".py").replace("/", ".").replace(".__init__", "")
    importlib.invalidate_caches()
    sys.modules.pop(name, None)  # another page may have a file of that name
    names.update(vars(importlib.import_module(name)))


# Python ---------------------------------------------------------------------------------------


def needs(page: Path) -> list[str]:
    """Return the libraries that a page is about, from a first line <!-- needs: torch, jax -->."""
    first = re.match(r"<!-- needs: (.+) -->", page.read_text(encoding="utf-8"))
    return first[1].split(", ") if first else []


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_python_runs_from_top_to_bottom(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for library in needs(page):
        pytest.importorskip(library)
    if len(needs(page)) > 1:  # whole frameworks, which warn of one another
        warnings.simplefilter("ignore")
    if "coreframe.testing" in page.read_text(encoding="utf-8"):
        # NumPy and array-api-strict say what there is to say; JAX compiles for long.
        monkeypatch.setenv("COREFRAME_PLUGINS", "-coreframe_jax,-coreframe_torch")
        registry.reset()
        request.addfinalizer(registry.reset)
    names: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(page, "python")
    for block in found:
        if re.match(r"# \w+(/\w+)+\.py\n", block.code):
            write_module(block, folder, names)
        else:
            monkeypatch.setitem(names, "__file__", str(page))
            block.run(names)
    if page.name == "README.md":
        assert len(found) >= 4
        assert names["result"].value > 0  # of the losses that stand alone
        np.testing.assert_allclose(names["y"], names["better_queries"], atol=1e-6)
        check_the_shown_loss(names["SoftMargin"])


def check_the_shown_loss(loss: type) -> None:
    """The fifteen lines are fifteen lines, and what they define has right gradients."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(b for b in blocks(ROOT / "README.md", "python") if "class SoftMargin" in b.code)
    lines = [line for line in block.code.splitlines() if line.strip()]
    body = lines[next(i for i, line in enumerate(lines) if "@dataclass" in line) :]
    assert len(body) <= 15
    assert "## A new loss in fifteen lines" in text
    rng = np.random.default_rng(0)
    a, b, along = rng.normal(size=(3, 6, 4))
    result = loss()(a, b)
    step = 1e-6
    difference = (loss()(a + step * along, b).value - loss()(a - step * along, b).value) / step / 2
    assert float(difference) == pytest.approx(float((result.grads["anchors"] * along).sum()))


def written_pages() -> dict[str, Path]:
    """Return the pages on writing a component, by kind."""
    pages = {path.stem: path for path in (ROOT / "docs" / "write").glob("*.md")}
    return {kind: pages[{"losses": "loss"}.get(kind, kind.removesuffix("s"))] for kind in KINDS}


def test_every_kind_has_a_page() -> None:
    assert set(written_pages().values()) == set((ROOT / "docs" / "write").glob("*.md"))
    overview = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    for kind, page in written_pages().items():
        assert f"| [{page.stem}](write/{page.name}) | `coreframe_{kind}` |" in overview


def hooks(page: Path, folder: Path) -> dict[str, dict[str, str]]:
    """Return the tables of names of a page, by hook, once its files are written."""
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        if block.code.startswith("# my_losses/"):
            write_module(block, folder, names)
    return {hook: names[hook]() for hook in HOOKS if hook in names}


@pytest.mark.parametrize("kind", KINDS)
def test_the_plugin_of_a_page_is_its_own_table(kind: str, folder: Path) -> None:
    """Its hook is the one of the kind, and names targets that its own blocks define."""
    (hook, table), *others = hooks(written_pages()[kind], folder).items()
    assert (hook, others) == (f"coreframe_{kind}", [])
    base = {"losses": "Loss"}.get(kind, kind.removesuffix("s").capitalize())
    for target in table.values():
        found = registry.import_target(target)
        assert kind == "backends" or issubclass(found, getattr(coreframe, base))


def test_the_plugin_of_the_overview_is_that_of_the_pages(folder: Path) -> None:
    shown = hooks(ROOT / "docs" / "write-a-plugin.md", folder)
    for kind in ("losses", "miners"):
        of_the_page = hooks(written_pages()[kind], folder)[f"coreframe_{kind}"]
        assert shown[f"coreframe_{kind}"].items() <= of_the_page.items()


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
def test_ten_lines_on_arrays_of_each_library(kind: str, folder: Path) -> None:
    library = pytest.importorskip(kind)
    block = next(b for b in blocks(ROOT / "README.md", "python") if "cf.fit(" in b.code)
    head, *rest = block.code.splitlines(keepends=True)
    assert head.startswith("from numpy import load")
    assert len([line for line in block.code.splitlines() if line.strip()]) <= 11
    put = {"numpy": np.asarray, "torch": getattr(library, "from_numpy", None)}.get(kind)
    put = put or library.numpy.asarray
    names: dict[str, Any] = {"load": lambda name: put(np.load(name))}
    Block(block.page, "python", "".join(rest), block.line + 1).run(names)
    assert names["result"].better("ndcg@10")
    assert (folder / "adapter" / "model.safetensors").exists()
    queries, better = names["queries"], names["better_queries"]
    assert type(better) is type(queries)
    assert better.dtype == queries.dtype
    assert better.shape == (5, 32)
    want = coreframe.load("adapter")(np.load("queries.npy")[:5])
    np.testing.assert_allclose(np.asarray(better), want, atol=1e-5)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "coreframe" else parts[1:]).removesuffix(".__init__")


MODULES = sorted(module_of(path) for path in SOURCES if path.name != "__main__.py")


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["doctest"])
    try:
        module = importlib.import_module(name)
    except MissingExtra as missing:  # of a module for another framework
        pytest.skip(str(missing))
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0


def test_there_are_doctests() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in MODULES if ".interop" not in name]
    examples = [t for m in modules for t in finder.find(m, m.__name__) if t.examples]
    assert len(examples) >= 5


# Other blocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [b for p in PAGES for b in blocks(p, "toml")], ids=name_of)
def test_toml_can_be_read(block: Block) -> None:
    assert tomllib.loads(block.code)


def test_the_file_of_a_run_is_one() -> None:
    page = ROOT / "docs" / "configuration.md"
    for block in blocks(page, "toml"):
        run = config.parse(tomllib.loads(block.code))
        assert config.parse(tomllib.loads(config.dump(run))) == run
    text = page.read_text(encoding="utf-8")
    for title, settings in (
        ("data", config.DataSettings()),
        ("train", config.TrainSettings()),
        ("gate", config.GateSettings()),
        ("curve", config.CurveSettings()),
        ("continual", config.ContinualSettings()),
    ):
        section = text.partition(f"## [{title}]\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| \w", section, re.MULTILINE)
        assert [name for name, _ in rows] == [field.name for field in fields(settings)]
        for name, default in rows:
            value = getattr(settings, name)
            value = list(value) if isinstance(value, tuple) else value
            assert tomllib.loads(f"x = {default}")["x"] == ("none" if value is None else value)


def test_every_name_of_a_column_is_documented() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    known = {name for names in NAMES.values() for name in names}
    assert {name for name in known if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_commands_exist_with_their_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = re.findall(
        r"(?<![\w/-])coreframe ([a-z]+(?:-[a-z]+)*)((?: [^\s`#&|]+)*)(?=`|\s)",
        "\n".join(
            [span for span in re.findall(r"`[^`\n]+`", text) if "…" not in span]  # a message
            + [b.code for b in blocks(page, "sh")]
        ),
    )
    for name, rest in commands:
        assert name in cli.main.commands, f"{page.name} names 'coreframe {name}'"
        command = cli.main.commands[name]
        known = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
        for option in re.findall(r"(?:^| )(--?[a-z][\w-]*)", rest):
            assert option in known, f"{page.name}: coreframe {name} has no {option}"


def test_the_readme_lists_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in cli.main.commands:
        assert re.search(rf"\b{name}\b", text), name


# Nothing is left out --------------------------------------------------------------------------


def documents() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def test_every_environment_variable_is_documented() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    used, text = set(re.findall(r"\bCOREFRAME_[A-Z_]+\b", source)), documents()
    assert {"COREFRAME_BACKEND", "COREFRAME_PLUGINS", "COREFRAME_THREADS"} <= used
    assert used - set(re.findall(r"\bCOREFRAME_[A-Z_]+\b", text)) == set()
    assert set(re.findall(r"\bCOREFRAME_[A-Z_]+\b", text)) - used == set()


def test_every_extra_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    _, _, table = text.partition("\n| extra | brings |\n")
    named = re.findall(r"`([\w-]+)`", "\n".join(re.findall(r"^\|([^|]*)\|", table, re.M)))
    assert sorted(named) == sorted(project["optional-dependencies"])


def test_every_hook_is_named() -> None:
    page = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    assert [hook for hook in HOOKS if not re.search(rf"\b{hook}\b", page)] == []
    assert [kind for kind in KINDS if not re.search(rf"\bcoreframe_{kind}\b", page)] == []


def test_every_component_is_named() -> None:
    text = documents() + (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    ours = [
        (kind, entry.name)
        for kind in KINDS
        for entry in registry.registry().entries(kind)
        if entry.plugin.built_in
    ]
    assert len(ours) > 20
    assert [(kind, name) for kind, name in ours if f"`{name}`" not in text] == []


LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if not link.startswith(("https://", "http://", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_paths_that_are_named_exist() -> None:
    """Code spans that look like files or folders of the repository are."""
    tops = "coreframe|backends|plugins|tests|docs|examples|benchmarks"
    for page in PAGES:
        for path in re.findall(rf"`((?:{tops})/[\w./-]*)`", page.read_text(encoding="utf-8")):
            if "my_" not in path:
                assert (ROOT / path).exists(), f"{page.name}: {path}"
