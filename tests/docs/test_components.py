"""Every component has a page that is current, complete, and whose example runs by itself."""

from __future__ import annotations

import doctest
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from from_docs import from_docs

from coreframe import registry
from coreframe.plugin import KINDS
from coreframe.testing import docstrings

ROOT = Path(__file__).parents[2]


generator = from_docs("generate")
COMPONENTS = generator.components()
EACH = pytest.mark.parametrize(
    "component", COMPONENTS, ids=[c.path.with_suffix("").as_posix() for c in COMPONENTS]
)


# The pages ------------------------------------------------------------------------------------


@EACH
def test_the_page_is_current(component: Any) -> None:
    text = generator.page(component)
    there = (generator.FOLDER / component.path).read_text("utf-8")
    assert text == there, "run python docs/generate.py"


def test_the_index_is_current_and_no_page_is_left_over() -> None:
    pages, problems = generator.generate()
    assert problems == []
    assert generator.stale(pages) == []
    there = {p.relative_to(generator.FOLDER) for p in generator.FOLDER.rglob("*.*")}
    assert there == {p for p in pages if ".." not in p.parts}


def test_every_kind_but_backends_has_pages() -> None:
    found = registry.registry()
    ours = [k for k in KINDS if any(entry.plugin.built_in for entry in found.entries(k))]
    assert set(ours) - {"backends"} == {c.kind for c in COMPONENTS} - {"core"}
    assert set(KINDS) - {"backends"} == set(generator.KINDS) - {"core"}


@EACH
def test_one_word_names_component_file_and_page(component: Any) -> None:
    """Registry name = file name = page name; what is no plugin may share a file."""
    module, _, attribute = component.target.partition(":")
    if module.startswith("coreframe.") or component.kind == "core":
        assert attribute.lower().replace("_", "") == component.name.replace("_", "")
    else:
        assert module.rpartition(".")[2] == component.name
    assert component.path.stem == component.name


@EACH
def test_the_example_of_the_page_runs_by_itself(component: Any) -> None:
    """A reader who pastes the example has all names; the blocks of a page are one session."""
    text = generator.page(component).partition("\n## Example\n")[2]
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    test = doctest.DocTestParser().get_doctest(code, {}, str(component.path), None, 0)
    assert test.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert result.failed == 0


@pytest.mark.parametrize("path", sorted(generator.FOLDER.rglob("*.md")), ids=lambda p: p.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if not link.startswith("https://"):
            page, _, heading = link.partition("#")
            target = (path.parent / page) if page else path
            assert target.exists(), link
            assert not heading or f"\n## {heading}\n" in target.read_text("utf-8"), link


# The generator --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is inherited.

    Args:
        tile: how wide. Default: it fits.
        kept: what stays. Default: nothing.
    """

    tile: int = 8
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Whole(Base):
    """A thing of *stars*, <names> and ``a | b``.

        f(x) = x^2

        g(x) = 2 x

    The slope is g:

    - it grows,
      and grows.
    - it is 0 at 0.

    Args:
        rate, decay: both of them, in [0, 1]. Default: halves.
        size: how many.

    Shapes: (n, d) in,
    (n,) out.

    Edges: none.

    Cost: O(n d).

    References: Hu et al. 2021, arXiv 2106.09685, section 4; doi 10.1000/182.

    >>> Whole(size=3).size
    3
    """

    rate: float = 0.5
    decay: float = 0.5
    size: int

    @property
    def area(self) -> int:
        """The area.

        In full.
        """
        return self.size**2

    @classmethod
    def of(cls, size: int, *, rate: float | None = None) -> Whole:
        """Make one of a ``size``."""
        return cls(size=size)

    def _hidden(self) -> None:
        """Not shown."""

    def undescribed(self) -> None:
        pass


def of(target: type, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(generator.registry, "import_target", lambda name: target)
    monkeypatch.setattr(generator, "ROOT", Path(__file__).parents[2])
    return generator.Component("losses", "whole", "tests.docs:Whole")


def test_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of(Whole, monkeypatch)
    monkeypatch.setattr(generator, "imports", lambda target, source: [])
    page = generator.page(whole)
    headings = re.findall(r"^##+ (.*)$", page, re.MULTILINE)
    assert headings == [
        *("Definition", "Parameters", "Inherited from Base", "Methods"),
        *("Shapes", "Edge cases", "Cost", "References", "Example"),
    ]
    for text in (
        r"A thing of \*stars\*, &lt;names> and `a | b`.",
        "```text\nf(x) = x^2\n\ng(x) = 2 x\n```\n\nThe slope is g:\n\n- it grows, and grows.\n- it",
        "| `rate` | `float` | `0.5` | both of them, in [0, 1].<br>*Default:* halves. |",
        "| `decay` | `float` | `0.5` | both of them, in [0, 1].<br>*Default:* halves. |",
        "| `size` | `int` | required | how many. |",
        "| `tile` | `int` | `8` | how wide.<br>*Default:* it fits. |",
        "|---|---|\n| `area` | The area. |\n| `of(size, *, rate=None)` | Make one of a `size`. |\n"
        "\n## Shapes",
        "## Shapes\n\n(n, d) in, (n,) out.\n",
        "[arXiv 2106.09685](https://arxiv.org/abs/2106.09685), section 4",
        "[doi 10.1000/182](https://doi.org/10.1000/182).",
        "```python\n>>> Whole(size=3).size\n3\n```",
    ):
        assert text in page


@pytest.mark.parametrize("name", ["torch.nn.Linear; Hu et al.", "https://example.org, Hu et al."])
def test_a_name_that_begins_a_section_keeps_its_letters(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Whole, "__doc__", Whole.__doc__.replace("Hu et al.", name))
    whole = of(Whole, monkeypatch)
    monkeypatch.setattr(generator, "imports", lambda target, source: [])
    assert f"## References\n\n{name} 2021" in generator.page(whole)
    assert "## Edge cases\n\nNone." in generator.page(whole)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    Shapes: (n, d) in,\n    (n,) out.\n\n", "", "missing: Shapes"),
        ("    Cost: O(n d).\n", "", "missing: Cost"),
        (">>> Whole(size=3).size\n    3", "", "missing: Example"),
        (" Default: halves.", "", "no 'Default:' for 'rate', in Whole; .* for 'decay'"),
        ("        size: how many.\n", "", "Args does not describe 'size'"),
        ("size: how many.", "size: how many.\n        width: 3.", "describes 'width', which is no"),
        ("size: how many.", "size:", "says nothing about size"),
        ("how many.\n", "how many.\n    So it is.\n", "belongs to no field: 'So it is.'"),
        ("Edges: none.", "Edges:", "the section Edges is empty"),
        ("Edges: none.", "Cost: none.", "the section Cost stands there twice"),
        ("Edges: none.", "Edges: none.\n\n    Limits: none.", "unknown section 'Limits'"),
    ],
)
def test_a_docstring_that_lacks_something_is_an_error_that_says_what(
    old: str, new: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert old in Whole.__doc__
    monkeypatch.setattr(Whole, "__doc__", Whole.__doc__.replace(old, new))
    whole = of(Whole, monkeypatch)
    with pytest.raises(docstrings.Incomplete, match=rf"losses/whole .*{message}"):
        generator.page(whole)


def test_an_inherited_field_with_another_default_is_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wider(Whole):
        tile: int = 16

    Wider.__doc__ = Whole.__doc__
    wider = of(Wider, monkeypatch)
    with pytest.raises(docstrings.Incomplete, match="Args does not describe 'tile'"):
        generator.page(wider)
    monkeypatch.setattr(generator, "imports", lambda target, source: [])
    Wider.__doc__ = Whole.__doc__.replace("size: how", "tile: Default: twice.\n        size: how")
    assert "| `tile` | `int` | `16` | how wide.<br>*Default:* twice. |" in generator.page(wider)


def test_an_example_gets_the_imports_that_it_takes_from_its_module() -> None:
    source = textwrap.dedent("""
        import re
        batch = Batch.labelled(x, sorted(y))
        pairwise(rows, batch)
        math.pi
    """)
    target = registry.import_target("coreframe.loss:PairwiseLoss")
    assert generator.imports(target, source) == ["from coreframe import Batch, pairwise"]
    assert generator.imports(target, "checks.choice(WORKING_ARRAYS)") == [
        "import coreframe.checks as checks",
        "from coreframe.loss import WORKING_ARRAYS",
    ]


def test_check_names_what_is_stale_and_writing_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [c for c in COMPONENTS if c.name in ("batch", "pairwise") and c.kind == "core"]
    monkeypatch.setattr(generator, "components", lambda: parts)
    monkeypatch.setattr(generator, "FOLDER", tmp_path)
    monkeypatch.setattr(generator, "OTHERS", {})

    def run(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["generate.py", *arguments])
        return generator.main(), capsys.readouterr().out.splitlines()

    names = ("README.md", "core/batch.md", "core/pairwise.md")
    assert run("--check") == (1, [f"stale: docs/components/{name}" for name in names])
    assert run() == (0, [])
    assert run("--check") == (0, [])
    (tmp_path / "core" / "batch.md").write_text("older", "utf-8")
    (tmp_path / "core" / "gone.md").write_text("of no component", "utf-8")
    old = ["stale: docs/components/core/batch.md", "stale: docs/components/core/gone.md"]
    assert run("--check") == (1, old)
    assert run() == (0, [])
    assert not (tmp_path / "core" / "gone.md").exists()
    assert run("--check") == (0, [])


@pytest.mark.parametrize(
    ("new", "differs"), [("2.1", False), ("1.9", False), ("2.2", True), ("2.0,3", True)]
)
def test_a_picture_may_differ_by_the_rounding_of_another_machine(
    new: str, differs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "FOLDER", tmp_path)
    (tmp_path / "a.svg").write_text('<line x="2.0"/>', "utf-8")
    assert generator.differs(Path("a.svg"), f'<line x="{new}"/>') is differs
