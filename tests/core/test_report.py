"""The report and the model card: what they say, that they load nothing, and what they escape."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from coreframe import config, plots
from coreframe.artefact import Side, TrainedAdapter
from coreframe.data.pairs import Pairs
from coreframe.errors import MissingExtra
from coreframe.experiment import Outcome, experiment
from coreframe.report import EXAMPLES, model_card, report_html, shorten, usage

pytest.importorskip("jinja2")

ENVIRONMENT = {"python": "3.12", "packages": {"numpy": "2.0"}, "blas": [], "inputs": {"a": "<sha>"}}
VOID = {"meta", "link", "br", "img", "hr", "input"}
METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10")


class Page(HTMLParser):
    """Reads a page and notes its texts, tags and links, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.cells: list[int] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice in {tag}: {names}"
        assert not [name for name in names if name.startswith("on")]
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag == "tr":
            self.cells.append(0)
        if tag in ("td", "th"):
            self.cells[-1] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def run(pairs: Pairs, *settings: str, test: float = 0.3) -> Outcome:
    short = ["train.epochs=2", "train.batch_size=32", *settings]
    return experiment(*pairs.split(0.2, test), config.read(None, short))


def turned(count: int = 150, **options: object) -> Pairs:
    """Return queries that a rotation brings close to their documents."""
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(count, 12)).astype(np.float32)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    noise = rng.normal(size=(count, 12)).astype(np.float32)
    return Pairs(queries, queries @ rotation + 0.4 * noise, **options)  # type: ignore[arg-type]


def texts(word: str, count: int = 150) -> list[str]:
    return [f"{word} {i} <script>alert({i})</script> & {'long ' * 60}" for i in range(count)]


@pytest.fixture(scope="module")
def better() -> Outcome:
    found = run(turned(query_texts=texts("query"), document_texts=texts("answer")))
    assert found.gate.passed
    return found


@pytest.fixture(scope="module")
def unproven(better: Outcome) -> Outcome:
    gate = replace(
        better.gate, passed=False, low=-0.01, reason="no proof: such <numbers>", hint="few pairs"
    )
    return replace(better, gate=gate)


@pytest.fixture(scope="module")
def nothing_better(better: Outcome) -> Outcome:
    gate = replace(better.gate, passed=False, gain=0.0, low=0.0, high=0.0, reason="none is better")
    return replace(better, gate=gate, kept="identity")


@pytest.fixture(scope="module")
def labelled() -> Outcome:
    rng = np.random.default_rng(2)
    labels = rng.integers(4, size=200)
    x = rng.normal(size=(4, 10))[labels] + rng.normal(size=(200, 10))
    return run(Pairs.labelled(x.astype(np.float32), labels), "train.side=both")


def html(outcome: Outcome) -> str:
    return report_html(
        outcome, title="A <b>title</b>", config_text="[a]\n", environment=ENVIRONMENT
    )


def card(outcome: Outcome) -> str:
    return model_card(outcome, title="A title", environment=ENVIRONMENT)


@pytest.mark.parametrize("name", ["better", "unproven", "nothing_better", "labelled"])
def test_the_page_is_whole_and_loads_nothing(name: str, request: pytest.FixtureRequest) -> None:
    text = html(request.getfixturevalue(name))
    page = Page(text)
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "@import" not in text
    assert "url(" not in text
    assert page.links[0] == "data:,"
    assert all(link.startswith("#") and f'id="{link[1:]}"' in text for link in page.links[1:])
    assert not {"script", "iframe", "img", "object", "base"} & set(page.tags)
    assert page.tags.count("svg") == 11 + len(METRICS)
    assert text.count('role="img"') == page.tags.count("svg") == text.count("<svg")
    assert page.tags.count("title") == 1 + page.tags.count("svg")
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text + " ".join(SVG.findall(text)))
    assert all(metric in page.text for metric in METRICS)
    for words in ("base", "whitening", "trained adapter", "numpy 2.0", "<sha>"):
        assert words in page.text
    assert ("Procrustes" in page.text) == (name != "labelled")  # it moves queries only
    assert page.text.startswith("A <b>title</b>")
    assert html(request.getfixturevalue(name)) == text


SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


@pytest.mark.parametrize("name", ["better", "unproven", "nothing_better", "labelled"])
def test_the_card_has_front_matter_and_whole_tables(
    name: str, request: pytest.FixtureRequest
) -> None:
    text = card(request.getfixturevalue(name))
    head = text.split("---\n")[1]
    assert "library_name: coreframe\n" in head
    wanted = "feature-extraction" if name == "labelled" else "sentence-similarity"
    assert f"pipeline_tag: {wanted}\n" in head
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "coreframe.load(" in text
    assert text.endswith("\n")
    assert card(request.getfixturevalue(name)) == text


def test_a_proven_gain_is_said_with_its_numbers(better: Outcome) -> None:
    page, gain = Page(html(better)), better.comparison.gains["ndcg@10"]
    headline = "Better: Procrustes kept and promoted"
    if better.kept == "trained":
        headline = "Better: trained adapter kept and promoted"
    for text in (page.text, card(better)):
        assert headline in text
        assert f"from {gain.base:.3f} to {gain.adapted:.3f}: +{gain.gain:.3f}" in text
        assert f"{gain.better} queries got better, {gain.worse} worse" in text
        assert "the index stays as it is" in text
    assert "No proof" not in page.text
    assert f"Only {len(better.test)} test queries" in page.text
    share = f"{gain.worse} of the {len(better.test)} test queries"
    assert share in card(better)


def test_an_unproven_gain_keeps_the_identity_and_says_why(unproven: Outcome) -> None:
    page = Page(html(unproven))
    for text in (page.text, card(unproven)):
        assert "No proof of gain: identity kept" in text
        assert "Reason: no proof: such <numbers>." in text
        assert "Hint: few pairs." in text
        assert "nothing is promoted" in text
        assert "best on dev, not promoted" in text
        assert 'm["query.W"]' not in text
    assert "Better:" not in page.text


def test_with_the_identity_kept_the_best_try_is_shown(nothing_better: Outcome) -> None:
    page = Page(html(nothing_better))
    assert "No proof of gain: identity kept" in page.text
    assert "Nothing beat the base on dev. This is the best of what was tried" in page.text
    assert "against the base | base" not in card(nothing_better)
    assert "got worse in" not in card(nothing_better)


def test_texts_are_escaped_cut_and_bounded(better: Outcome) -> None:
    text = html(better)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(" in text
    assert "long …" not in text
    assert "long…" in text
    articles = text.count("<article")
    gain = better.comparison.gains["ndcg@10"]
    assert articles == min(gain.better, EXAMPLES) + min(gain.worse, EXAMPLES)
    assert len(text) < 200_000


def test_examples_name_exact_ranks_in_order(better: Outcome) -> None:
    """The ranks are those of a full sort, and the largest changes of the metric come first."""
    base, kept = better.candidates["identity"], better.candidates[better.kept]
    change = kept.test.values["ndcg@10"] - base.test.values["ndcg@10"]
    names = [" ".join(text.split()[:2]) for text in better.test.query_texts or ()]
    seen = []
    for article in html(better).split("<article")[1:]:
        text = Page("<article" + article.split("</article>")[0] + "</article>").text
        query = names.index(" ".join(text.split()[:2]))
        ranks = []
        for adapter in (base.adapter, kept.adapter):
            scores = adapter(better.test.documents, side="document") @ adapter(
                better.test.queries[query]
            )
            right = better.test.relevance.pairs[query, 1]  # type: ignore[attr-defined]
            ranks.append(int((scores > scores[right]).sum()) + 1)
        assert f"{ranks[0]} → {ranks[1]} ndcg@10 {plots.signed(change[query], 2)}" in text
        seen.append(change[query])
    gains, losses = [x for x in seen if x > 0], [x for x in seen if x < 0]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == change.max()
    assert losses == sorted(losses)


def test_labels_without_texts(labelled: Outcome) -> None:
    page = Page(html(labelled))
    assert re.search(r"right: document \d+ · document \d+ · document \d+ and \d+ more", page.text)
    assert "right documents on average" in page.text


def test_no_query_changed() -> None:
    """The base is perfect, so nothing can improve, and nothing that is allowed makes it worse."""
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    outcome = run(Pairs(x, x), "gate.minimum_groups=1", test=0.1)
    assert outcome.promoted == "identity"
    page = Page(html(outcome))
    assert "No query got better." in page.text
    assert "No query got worse." in page.text
    assert "4 test queries prove nothing, 20 are the least" in page.text
    assert "Only 4 test queries" in page.text
    assert card(outcome)


def test_usage_lines_apply_the_adapter(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    w, b = (rng.normal(size=s).astype(np.float32) for s in ((5, 5), (5,)))
    thin = {"A": w[:, :2], "B": w[:2], "b": b}
    adapter = TrainedAdapter(
        5, {"query": Side("low_rank", thin, 0.3), "document": Side("linear", {"W": w})}
    )
    adapter.save(tmp_path)
    monkeypatch.chdir(tmp_path)
    x = rng.normal(size=(4, 5)).astype(np.float32)
    code, library = usage(adapter)
    names = {"q": x, "d": x}
    exec(code, names)
    np.testing.assert_allclose(names["q"], adapter(x), atol=1e-6)
    np.testing.assert_allclose(names["d"], adapter(x, side="document"), atol=1e-6)
    names = {"queries": x, "documents": x}
    exec(library.replace("path/to/this/folder", str(tmp_path)), names)
    np.testing.assert_array_equal(names["queries"], adapter(x))
    np.testing.assert_array_equal(names["documents"], adapter(x, side="document"))
    assert len(usage(TrainedAdapter(5, {"query": Side("linear", {"W": w})}))[0].splitlines()) == 5


def test_without_jinja2_the_extra_is_named(better: Outcome, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match=r"writing a report needs .*coreframe-ml\[cli\]"):
        card(better)


def test_shorten() -> None:
    assert shorten("a\n  b\tc") == "a b c"
    assert shorten("x" * 300) == "x" * 199 + "…"
    assert shorten(" \n") == "(empty)"


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0.31, 0.55, [0.3, 0.4, 0.5, 0.6]),
        (-0.02, 0.19, [-0.1, 0, 0.1, 0.2]),
        (3, 3, [2.6, 2.8, 3, 3.2, 3.4]),
    ],
)
def test_ticks_are_round_and_cover(low: float, high: float, wanted: list[float]) -> None:
    assert plots.ticks(low, high) == pytest.approx(wanted)


def test_numbers_are_written_with_signs() -> None:
    assert plots.signed(0.0841) == "+0.084"
    assert plots.signed(-0.0841) == "−0.084"
    assert plots.signed(-0.0001) == "0.000"
    assert plots.fixed(-1.5, 1) == "−1.5"


def test_plots_of_nothing_and_of_one_point() -> None:
    assert plots.line_chart([plots.Line("a", [])], title="t", x_label="x") == ""
    assert plots.distributions([("p", [("s", "good", [])])]) == {}
    assert plots.histograms({}, title="t", x_label="x") == ""
    one = plots.line_chart(
        [plots.Line("a", [(4, 0.5)])], title="<t>", x_label="x", mark=(0, "kept"), level=(0.1, "b")
    )
    Page(one)
    assert "&lt;t&gt;" in one
    single = plots.distributions([("p", [("s", "good", [0.5])])])
    Page(plots.histograms(single, title="t", x_label="x"))
    Page(plots.rank_grid(plots.rank_table([], [], largest=3), title="t"))
    Page(plots.share_bar(0, 0, 0))


def test_the_rank_grid_counts_every_query() -> None:
    before, after = [1, 2, 11, 2000, 7], [1, 1, 10, 3, 1500]
    drawn = plots.rank_grid(plots.rank_table(before, after, largest=2500), title="t")
    counts = [int(n) for n in re.findall(r">(\d+)</text>", drawn.split("<rect", 1)[1])]
    assert sum(counts) == len(before)
