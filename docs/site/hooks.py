"""What the site's build adds to the pages as a repository's web view shows them.

- A page for each component in the navigation; the repository's change log and its rules too.
- Links to files of the repository that are no page become the file's path.
- ```` ```math ```` becomes MathML, which browsers draw by themselves.
- Our own drawings stand in the page itself, so that they follow its light or dark colours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from math_core import LatexToMathML
from mkdocs.structure.files import File

GUESTS = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages that stand at the root of the repository, and where they stand in the site."""

FENCE = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
MATH = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CRUMBS = re.compile(r"\A\[Components\].* › .*\n+")  # the site has its navigation
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s]+)\)")
CELL = re.compile(
    r"<code>[^<]*</code>(?=[^\n]*</td>)"
)  # code in a table, whose | had to be escaped
FIELDS = re.compile(  # short columns, and words in the last
    r"<table>\s*<thead>\s*<tr>\s*(?:<th>[^<]*</th>\s*){2,3}<th>(?:Meaning|to fix)</th>.*?</table>",
    re.DOTALL,
)
DRAWING = re.compile(r'<p>\s*<img alt="[^"]*" src="([^":]+\.svg)" />\s*</p>')


def on_config(config: Any) -> Any:
    """Put the pages of all components in place of their folder's name."""
    folder = Path(config["docs_dir"], "components")

    def filled(items: list[Any]) -> list[Any]:
        done = []
        for item in items:
            (title, value), *_ = item.items() if isinstance(item, dict) else [("", item)]
            if value == folder.name:
                item = {title: components(folder)}
            elif isinstance(value, list):
                item = {title: filled(value)}
            done.append(item)
        return done

    config["nav"] = filled(config["nav"])
    return config


def components(folder: Path) -> list[Any]:
    """Return the index, and the pages of each kind in the index's order, as navigation."""
    index = (folder / "README.md").read_text("utf-8")
    kinds: dict[str, list[Any]] = {}
    for path in re.findall(r"^\| \[\w+\]\((\w+/\w+\.md)\)", index, re.MULTILINE):
        kinds.setdefault(Path(path).parent.name, []).append(
            {Path(path).stem: f"{folder.name}/{path}"}
        )
    pages = [{kind.capitalize(): paths} for kind, paths in kinds.items()]
    return [f"{folder.name}/README.md", *pages]


def on_files(files: Any, *, config: Any) -> Any:
    for there, here in GUESTS.items():
        path = Path(config["docs_dir"]).parent / there
        if path.exists():
            text = path.read_text("utf-8")
            text = re.sub(r"\]\((?!#|\w+:)", "](../", text).replace("](../docs/", "](")
            files.append(File.generated(config, here, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    where = Path(page.file.src_uri).parent.as_posix()

    def local(link: re.Match[str]) -> str:
        words, target = link[1], link[2].partition("#")[0]
        file = files.get_file_from_path(normpath(f"{where}/{target}"))
        if not target or ":" in target or (file and file.inclusion.is_included()):
            return link[0]
        path = normpath(f"docs/{where}/{target}")
        if path in GUESTS:
            return f"[{words}]({relpath(GUESTS[path], where)})"
        if not Path(config["docs_dir"]).parent.joinpath(path).exists():
            return link[0]  # the strict build says that it leads nowhere
        named = words.strip("`") in (path, target)
        return f"`{path}`" if named else f"{words} (`{path}`)"

    markdown = CRUMBS.sub("", markdown)
    return outside_fences(MATH.sub(math, markdown), lambda text: LINK.sub(local, text))


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Change a text, but none of its blocks of code."""
    done, at = [], 0
    for fence in FENCE.finditer(markdown):
        done += [change(markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*done, change(markdown[at:])])


def math(block: re.Match[str]) -> str:
    """Return MathML, with its source as an annotation. An unknown command ends the build."""
    source = " ".join(block[1].split())  # on one line, or Markdown would end the block
    drawn = LatexToMathML(annotation=True).convert_with_local_state(source, displaystyle=True)
    return f'<div class="formula">{drawn}</div>'


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    where = Path(config["docs_dir"], page.file.src_uri).parent

    def inlined(image: re.Match[str]) -> str:
        text = (where / image[1]).read_text("utf-8")
        if 'class="plot"' not in text:
            return image[0]
        text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
        return f'<figure class="drawing">{text.strip()}</figure>'

    html = FIELDS.sub(r'<div class="fields">\g<0></div>', html)
    html = CELL.sub(lambda cell: cell[0].replace(r"\|", "|"), html)
    return DRAWING.sub(inlined, html)
