"""The site as it is built: whole, without anything from elsewhere, and strict."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from browser import Browser, executable

pytest.importorskip("material", reason="the site needs the extra docs")
pytest.importorskip("math_core", reason="the site needs the extra docs")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", site]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=config.parent)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site: the one that CI has built, or a new one."""
    if built := os.environ.get("COREFRAME_TEST_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """What a page loads, where its links lead, and the places that links may lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.places.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("prev", "next", "canonical"):
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_of_the_folder_is_there(pages: dict[Path, Page], site: Path) -> None:
    there = {p.relative_to(site).with_suffix("").as_posix() for p in pages}
    assert {"changelog", "contributing"} <= there
    for source in DOCS.rglob("*.md"):
        name = source.relative_to(DOCS).with_suffix("").as_posix().replace("README", "index")
        assert name in there


def test_no_page_has_two_places_in_the_navigation() -> None:
    paths = re.findall(
        r"^ +- (?:.*: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M
    )
    assert len(paths) > 40
    assert sorted(paths) == sorted(set(paths))


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    for page in pages.values():
        assert [url for url in page.loads if re.match(r"(?:\w+:)?//", url)] == [], page.path
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", text) == [], sheet


def test_links_and_pictures_lead_somewhere(pages: dict[Path, Page], site: Path) -> None:
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its addresses begin at the server's root
        for link in [*page.links, *page.loads]:
            if re.match(r"\w+:", link):
                continue
            name, _, place = link.partition("#")
            target = (path.parent / unquote(name)).resolve() if name else path
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if place and not place.startswith("__"):
                assert unquote(place) in pages[target].places, f"{path.relative_to(site)}: {link}"


def test_no_file_of_the_build_is_published(site: Path) -> None:
    names = {p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()}
    assert not {n for n in names if n.endswith((".py", ".toml", ".md"))}


def test_search_has_all_pages_and_needs_no_server(site: Path, pages: dict[Path, Page]) -> None:
    text = (site / "search" / "search_index.js").read_text("utf-8")
    entries = json.loads(text.removeprefix("var __index = "))["docs"]
    found = {entry["location"].partition("#")[0] for entry in entries}
    there = {p.relative_to(site).as_posix() for p in pages} - {"404.html", "index.html"}
    assert there <= found
    assert any("softplus" in entry["text"] for entry in entries)
    home = (site / "index.html").read_text("utf-8")
    assert 'src="site/iframe-worker.js"' in home


def test_formulas_are_drawn_by_the_browser(site: Path) -> None:
    sources = [p for p in (DOCS / "components").rglob("*.md") if "```math" in p.read_text("utf-8")]
    assert len(sources) > 40
    for source in sources:
        html = (site / source.relative_to(DOCS).with_suffix(".html")).read_text("utf-8")
        assert "<math " in html
        assert "language-math" not in html
        assert "merror" not in html


def test_drawings_stand_in_the_page_and_follow_its_colours(site: Path) -> None:
    style = (site / "site" / "extra.css").read_text("utf-8")
    found = 0
    for page in site.rglob("*.html"):
        html = page.read_text("utf-8")
        for source in re.findall(r'<img[^>]* src="([^":/][^":]*\.svg)"', html):
            assert 'class="plot"' not in (page.parent / source).read_text("utf-8"), page
        for inside in re.findall(r'<figure class="drawing">(.*?)</figure>', html, re.DOTALL):
            found += 1
            assert "<style>" not in inside
            for tone in re.findall(r'class="(\w+)', inside):
                assert tone == "plot" or f".drawing .{tone} " in style, f"{page}: {tone}"
    drawings = [p for p in DOCS.rglob("*.svg") if 'class="plot"' in p.read_text("utf-8")]
    assert found == len(drawings) > 30


FAULTS = {
    "[lost](gone.md)": "'gone.md'",
    "[lost](#gone)": "'#gone'",
    "[lost](/elsewhere)": "'/elsewhere'",
    "![lost](gone.png)": "'gone.png'",
}


def test_a_build_with_faults_fails_and_names_each(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n" + "\n\n".join(FAULTS), "utf-8")
    (tmp_path / "docs" / "other.md").write_text("# Not in the navigation\n", "utf-8")
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: [index.md]\nhooks: [{DOCS / 'site' / 'hooks.py'}]\n"
        "theme: {logo: null, favicon: null}\nextra_css: []\n",
        "utf-8",
    )
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    for message in [*FAULTS.values(), "other.md"]:
        assert message in done.stderr
    assert done.stderr.count("WARNING") == len(FAULTS) + 1


# The hooks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site" / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Files:
    """The pages of a site: here there is but one."""

    def get_file_from_path(self, path: str) -> Any:
        included = SimpleNamespace(is_included=lambda: path == "data.md")
        return SimpleNamespace(inclusion=included) if path in ("data.md", "generate.py") else None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[data](../../data.md#labels)", "[data](../../data.md#labels)"),
        ("[there](https://example.org)", "[there](https://example.org)"),
        ("[below](#below)", "[below](#below)"),
        ("[the tests](../../../tests)", "the tests (`tests`)"),
        ("[pyproject.toml](../../../pyproject.toml)", "`pyproject.toml`"),
        ("[`docs/generate.py`](../../generate.py)", "`docs/generate.py`"),
        ("[the rules](../../../CONTRIBUTING.md)", "[the rules](../../contributing.md)"),
        ("[nowhere](../../gone.md)", "[nowhere](../../gone.md)"),
        ("```text\n[tests](../../../tests)\n```", "```text\n[tests](../../../tests)\n```"),
        ("[Components](../README.md) › [losses](x) › `y`\n\n# Y", "# Y"),
    ],
)
def test_links_out_of_the_folder_become_paths(hooks: ModuleType, text: str, want: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="components/losses/info_nce.md"))
    given = {"page": page, "config": {"docs_dir": str(DOCS)}, "files": Files()}
    assert hooks.on_page_markdown(text, **given) == want


def test_a_formula_becomes_mathml_and_a_wrong_one_ends_the_build(hooks: ModuleType) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    given = {"page": page, "config": {"docs_dir": str(DOCS)}, "files": Files()}
    text = hooks.on_page_markdown("Before\n\n```math\n\\tau <\n x\n```\n\nafter", **given)
    assert text.startswith('Before\n\n<div class="formula"><math')
    assert "<mi>τ</mi><mo>&lt;</mo><mi>x</mi>" in text
    assert text.endswith("</div>\n\nafter")
    with pytest.raises(Exception, match="nosuch"):
        hooks.on_page_markdown("```math\n\\nosuch{x}\n```", **given)


def test_the_navigation_has_every_component_by_its_name(hooks: ModuleType) -> None:
    config = {"docs_dir": str(DOCS), "nav": [{"Reference": [{"Components": "components"}]}]}
    (reference,) = hooks.on_config(config)["nav"]
    (found,) = reference["Reference"]
    index, *kinds = found["Components"]
    assert index == "components/README.md"
    paths = [
        path for kind in kinds for items in kind.values() for i in items for path in i.values()
    ]
    want = {p.relative_to(DOCS).as_posix() for p in (DOCS / "components").rglob("*.md")}
    assert sorted([index, *paths]) == sorted(want)
    assert {"info_nce": "components/losses/info_nce.md"} in kinds[0]["Losses"]


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = executable()
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with Browser(path) as opened:
        yield opened


def until(browser: Browser, expression: str) -> Any:
    """Return the value of an expression as soon as it has one; the page may still be at work."""
    for _ in range(100):
        if value := browser.ask(expression):
            return value
        time.sleep(0.1)
    raise AssertionError(f"never true: {expression}")


@pytest.mark.integration
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize(
    "name",
    ["index.html", "cli.html", "components/losses/info_nce.html", "components/miners/random.html"],
)
def test_pages_fit_and_follow_the_readers_colours(
    browser: Browser, site: Path, name: str, width: int
) -> None:
    grounds = []
    for dark in (False, True):
        browser.open(site / name, width=width, dark=dark)
        scheme = "slate" if dark else "default"
        until(browser, f"document.body.dataset.mdColorScheme === '{scheme}'")
        grounds.append(browser.ask("getComputedStyle(document.body).backgroundColor"))
        assert browser.ask("document.documentElement.scrollWidth - innerWidth") <= 0
        assert [url for url in browser.requests() if not url.startswith("file:")] == []
        assert browser.complaints() == []
        if fields := browser.ask("document.querySelector('.fields td:last-child')") is not None:
            words = browser.ask(
                "document.querySelector('.fields td:last-child').getBoundingClientRect().right"
            )
            assert 0 < words <= width
        assert fields == (name != "index.html")
        if "components" in name:
            assert browser.ask("document.querySelector('math').getBoundingClientRect().height") > 15
            family = browser.ask("getComputedStyle(document.querySelector('math')).fontFamily")
            assert "Math" in family  # elsewhere braces and roots keep the size of a letter
            line = browser.ask("getComputedStyle(document.querySelector('.drawing .warm')).color")
            assert line == ("rgb(240, 162, 90)" if dark else "rgb(184, 92, 0)")
        if pictures := os.environ.get("COREFRAME_TEST_PICTURES"):
            shown = f"{name.replace('/', '-')}-{width}-{scheme}.png"
            browser.screenshot(Path(pictures) / shown)
    assert grounds[0] != grounds[1]


@pytest.mark.integration
def test_search_answers_from_a_file(browser: Browser, site: Path) -> None:
    browser.open(site / "components" / "losses" / "info_nce.html", width=1280)
    browser.ask("document.querySelector('[data-md-component=search-query]').focus()")
    browser.call("Input.insertText", text="softmax_weighted")
    link = until(browser, "document.querySelector('.md-search-result__link')?.href")
    assert "components/miners/softmax_weighted.html" in link
    assert browser.complaints() == []
