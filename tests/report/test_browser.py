"""The report in a real browser: a phone and a desk, light and dark, and on paper.

    apt-get install chromium && pytest -m integration tests/report

Pictures of each are left in the folder that COREFRAME_TEST_PICTURES names, if it does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, executable

from coreframe import config
from coreframe.data.pairs import Pairs
from coreframe.experiment import experiment
from coreframe.report import compare_html, render, report_data

pytest.importorskip("jinja2")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(executable() is None, reason="there is no Chromium on this machine"),
]
WIDTHS = (320, 360, 768, 1280)
LONG = "Donaudampfschifffahrtsgesellschaftskapitän" * 3


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write reports of pairs with long words, of labelled vectors, and of both side by side."""
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(300, 12)).astype(np.float32)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    noise = 0.4 * rng.normal(size=(300, 12)).astype(np.float32)
    texts = [f"{LONG} {i}" if i % 3 else f"a query of many words {i} " * 9 for i in range(300)]
    pairs = Pairs(queries, queries @ rotation + noise, query_texts=texts, document_texts=texts)
    labels = rng.integers(9, size=300)
    x = rng.normal(size=(9, 10))[labels] + rng.normal(size=(300, 10))
    sets = {
        "pairs": (pairs, "query"),
        "labels": (Pairs.labelled(x.astype(np.float32), labels), "both"),
    }
    folder = tmp_path_factory.mktemp("pages")
    environment = {
        "python": "3.12",
        "command": f"coreframe train {LONG}.jsonl",
        "inputs": {f"{LONG}.jsonl": "sha256:" + "0123456789abcdef" * 4},
    }
    found = {}
    for name, (data, side) in sets.items():
        settings = config.read(
            None,
            [
                "train.epochs=3", f"train.side={side}", "curve.enabled=always",
                "losses.0.temperature={ scheduler = 'cosine', start = 0.1, end = 0.05 }",
            ],
        )  # fmt: skip
        outcome = experiment(*data.split(0.2, 0.4), settings)
        found[name] = report_data(
            outcome,
            title=f"{name} {LONG}",
            config_text=config.dump(settings),
            environment=environment,
        )
    written = {name: render(data) for name, data in found.items()}
    written["compare"] = compare_html({f"{LONG}/{name}": data for name, data in found.items()})
    for name, page in written.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in written}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = executable()
    assert path is not None
    with Browser(path) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["pairs", "labels", "compare"])
def test_it_fits_and_loads_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool, tmp_path: Path
) -> None:
    browser.open(pages[name], width=width, dark=dark)
    assert browser.ask("innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", ground)[0])
    assert (red < 60) == dark
    assert browser.requests() == []
    assert browser.complaints() == []
    cut = browser.ask(
        "JSON.stringify([...document.querySelectorAll('svg.plot text')].filter(t => {"
        "const a = t.getBoundingClientRect();"
        f"return a.left < -0.5 || a.right > {width} + 0.5;"
        "}).map(t => t.textContent))"
    )
    assert cut == "[]"
    picture = tmp_path / "page.png"
    browser.screenshot(picture)
    assert picture.stat().st_size > 20_000
    if folder := os.environ.get("COREFRAME_TEST_PICTURES"):
        target = Path(folder) / f"{name}-{width}-{'dark' if dark else 'light'}.png"
        target.write_bytes(picture.read_bytes())


def test_text_is_large_enough_on_a_phone(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["pairs"], width=360)
    sizes = browser.ask(
        "JSON.stringify([...document.querySelectorAll('p, td, th, li, h4, summary')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)).sort((a, b) => a - b)[0])"
    )
    assert float(sizes) >= 12
    drawn = browser.ask(
        "JSON.stringify([...document.querySelectorAll('svg.plot text')]"
        ".map(t => t.getBoundingClientRect().height).sort((a, b) => a - b)[0])"
    )
    assert float(drawn) >= 7


def test_it_prints_with_what_is_folded(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    """Dark mode does not waste ink, and no table is cut at the edge of the paper."""
    browser.open(pages["pairs"], width=1280, dark=True)
    browser.pdf(tmp_path / "page.pdf")
    data = (tmp_path / "page.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) < 60
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=718, height=1000, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.ask("document.documentElement.scrollWidth") <= 718


def test_it_works_without_script_and_by_its_links(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["pairs"], width=1280)
    assert browser.ask("document.scripts.length") == 0
    missing = browser.ask(
        "JSON.stringify([...document.links].filter(a => !document.querySelector(a.hash))"
        ".map(a => a.href))"
    )
    assert missing == "[]"
    unnamed = "[...document.querySelectorAll('svg')].filter(s => !s.getAttribute('aria-label'))"
    assert browser.ask(f"{unnamed}.length") == 0
