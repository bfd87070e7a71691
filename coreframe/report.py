"""What a run found, to read: ``report.html`` in one self-contained file, and a model card.

Both show the same evidence as ``metrics.json``. The report adds what takes a look at single
queries: exact ranks and scores over the whole collection, before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coreframe import plots
from coreframe.artefact import TrainedAdapter
from coreframe.data.pairs import Pairs
from coreframe.errors import MissingExtra
from coreframe.evaluation import METRICS
from coreframe.evaluation.ranks import Ranks, exact_ranks, right_documents
from coreframe.evaluation.retrieval import Evaluation
from coreframe.experiment import FEW_TEST_QUERIES, Candidate, Outcome

if TYPE_CHECKING:
    import jinja2

EXAMPLES = 20
TOP = 3
LONGEST = 200

_NAMES = {"identity": "base", "trained": "trained adapter", "procrustes": "Procrustes"}
_ABOUT = {
    "identity": "the vectors as they are",
    "whitening": "closed form: evens out the directions that all vectors share",
    "procrustes": "closed form: rotates queries onto their documents",
}


def report_html(
    outcome: Outcome, *, title: str, config_text: str, environment: Mapping[str, Any]
) -> str:
    """Return the report of a run: one HTML file that loads nothing and needs no script."""
    shown = _shown(outcome)
    before = _ranks(outcome.candidates["identity"], outcome.test)
    after = before if shown.name == "identity" else _ranks(shown, outcome.test)
    return _template("report.html").render(
        **_common(outcome, title, environment),
        shown=shown,
        shown_name=_name(shown.name),
        limit=EXAMPLES,
        gains=shown.gain.gains,
        bars={m: plots.share_bar(g.better, g.same, g.worse) for m, g in shown.gain.gains.items()},
        few=len(outcome.test) if len(outcome.test) < FEW_TEST_QUERIES else 0,
        figures=_figures(outcome, shown, before, after),
        cuts=_cuts(before, after),
        changed=_changed(outcome, shown, before, after),
        config_text=config_text,
    )


def model_card(outcome: Outcome, *, title: str, environment: Mapping[str, Any]) -> str:
    """Return the README of the folder that holds the adapter: a model card in Markdown."""
    texts = outcome.train.query_texts is not None
    return _template("model_card.md").render(
        **_common(outcome, " ".join(title.split()), environment),
        gain=outcome.comparison.gains[outcome.gate.metric],
        pipeline_tag="sentence-similarity" if texts else "feature-extraction",
    )


# What both say --------------------------------------------------------------------------------


def _common(outcome: Outcome, title: str, environment: Mapping[str, Any]) -> dict[str, Any]:
    numpy_code, library_code = usage(outcome.adapter)
    return {
        "title": title,
        "outcome": outcome,
        "gate": outcome.gate,
        "metrics": METRICS,
        "verdict": verdict(outcome),
        "candidates": [_row(outcome, c) for c in outcome.candidates.values()],
        "data": {name: _size(getattr(outcome, name)) for name in ("train", "dev", "test")},
        "environment": environment,
        "numpy_code": numpy_code,
        "library_code": library_code,
        "rebuild": outcome.adapter.rebuilds_index,
    }


def verdict(outcome: Outcome) -> tuple[str, list[str]]:
    """Return the headline of a run and the sentences below it."""
    gate, kept = outcome.gate, outcome.kept
    name, queries = _name(kept), f"{len(outcome.test):,} unseen queries"
    if gate.passed:
        gain = outcome.comparison.gains[gate.metric]
        index = (
            "It moves documents too, so their index must be rebuilt."
            if outcome.adapter.rebuilds_index
            else "It moves queries only: the index stays as it is."
        )
        return f"Better: {name} kept and promoted", [
            f"On {queries} {gate.metric} went from {gain.base:.3f} to "
            f"{gain.adapted:.3f}: {plots.signed(gain.gain)}, 95% interval "
            f"{plots.signed(gain.low)} to {plots.signed(gain.high)}.",
            f"{gain.better:,} queries got better, {gain.worse:,} worse, {gain.same:,} stayed the "
            f"same. {index}",
        ]
    lines = [f"Reason: {gate.reason}."]
    if kept != "identity":
        found = "loss is proven" if gate.high < 0 else "gain is not proven"
        start = f"{name[0].upper()}{name[1:]} was best on dev, but on {queries}"
        lines.insert(0, f"{start} its {found}: nothing is promoted.")
    if gate.hint:
        lines.append(f"Hint: {gate.hint}.")
    return "No proof of gain: identity kept", lines


def usage(adapter: TrainedAdapter) -> tuple[str, str]:
    """Return the lines of NumPy that apply the stored adapter, and those with coreframe."""
    sides = [("query", "queries", "q"), ("document", "documents", "d")]
    moved = [s for s in sides if adapter.side(s[0]).form != "identity"]
    lines = ["# the identity: use your vectors as they are"]
    if moved:
        lines = ["import numpy as np", "from safetensors.numpy import load_file"]
        lines.append('m = load_file("model.safetensors")')
    for side, _, x in moved:
        own = adapter.side(side)
        if own.form == "low_rank":
            step = f'{x} = {x} + {own.scaling!r} * ({x} @ m["{side}.A"]) @ m["{side}.B"]'
        else:
            step = f'{x} = {x} @ m["{side}.W"]'
        lines.append(step + (f' + m["{side}.b"]' if "b" in own.arrays else ""))
        if adapter.normalize:
            lines.append(f"{x} /= np.linalg.norm({x}, axis=1, keepdims=True)")
    library = ["import coreframe", 'adapter = coreframe.load("path/to/this/folder")']
    library += [f'{rows} = adapter({rows}, side="{side}")' for side, rows, _ in moved or sides[:1]]
    return "\n".join(lines), "\n".join(library)


def _name(candidate: str) -> str:
    return _NAMES.get(candidate, candidate)


def _row(outcome: Outcome, candidate: Candidate) -> dict[str, Any]:
    """Return one line of the table of candidates."""
    name = candidate.name
    about = _ABOUT.get(name, "")
    if name == "trained":
        start = "the identity" if outcome.start == "identity" else _name(outcome.start)
        about = f"starts at {start}, best epoch on dev: {outcome.run.best_epoch}"
    status = "best on dev, not promoted" if name == outcome.kept else ""
    if name == outcome.promoted:
        status = "kept and promoted" if outcome.gate.passed else "kept"
    return {
        "name": _name(name),
        "about": about,
        "test": candidate.test.mean(),
        "dev": candidate.dev[outcome.gate.metric],
        "index": "rebuild" if candidate.adapter.rebuilds_index else "stays",
        "allowed": candidate.allowed,
        "status": status,
        "stored": name == outcome.promoted,
    }


def _size(pairs: Pairs) -> tuple[int, int, int, int]:
    """Return the numbers of queries, documents and relevant pairs, and the width."""
    counts = int(pairs.relevance.counts().sum())
    return len(pairs), int(pairs.documents.shape[0]), counts, int(pairs.queries.shape[1])


def _template(name: str) -> jinja2.Template:
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("jinja2", "cli", "writing a report") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("coreframe", "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"signed": plots.signed, "f3": plots.fixed, "n": "{:,}".format}
    return environment.get_template(name)


# Single queries -------------------------------------------------------------------------------


def _ranks(candidate: Candidate, pairs: Pairs) -> Ranks:
    return exact_ranks(candidate.adapter, pairs, candidate.test)


def _shown(outcome: Outcome) -> Candidate:
    """Return the candidate whose queries are shown: the kept one, or the best that was tried."""
    if outcome.kept != "identity":
        return outcome.candidates[outcome.kept]
    # A trained adapter whose best epoch is its start equals another candidate.
    same = ("identity",) if outcome.run.best_epoch else ("identity", "trained")
    tried = [c for c in outcome.candidates.values() if c.allowed and c.name not in same]
    best = max(tried, key=lambda c: c.dev[outcome.gate.metric], default=None)
    return best or outcome.candidates["identity"]


def _changed(
    outcome: Outcome, shown: Candidate, before: Ranks, after: Ranks
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the queries that gained and lost most in the gate's metric, worst and best first.

    Of equal changes, the larger one in 1 / rank comes first.
    """
    import numpy as np

    base, metric, pairs = outcome.candidates["identity"].test, outcome.gate.metric, outcome.test
    texts = pairs.query_texts
    change = shown.test.values[metric] - base.values[metric]
    finer = 1 / np.maximum(after.rank, 1) - 1 / np.maximum(before.rank, 1)
    order = np.lexsort((np.arange(len(change)), -finer, -change))
    up = [int(i) for i in order if change[i] > 0][:EXAMPLES]
    down = [int(i) for i in order[::-1] if change[i] < 0][:EXAMPLES]

    def example(i: int) -> dict[str, Any]:
        right = np.nonzero(right_documents(pairs, np.array([i]))[0])[0]
        return {
            "query": f"query {i}" if texts is None else shorten(texts[i]),
            "right": [_document(pairs, j, LONGEST) for j in right[:TOP]],
            "more": max(0, len(right) - TOP),
            "before": int(before.rank[i]),
            "after": int(after.rank[i]),
            "change": float(change[i]),
            "top_before": _top(base, pairs, i),
            "top_after": _top(shown.test, pairs, i),
        }

    return [example(i) for i in up], [example(i) for i in down]


def _top(found: Evaluation, pairs: Pairs, query: int) -> list[tuple[str, bool]]:
    import numpy as np

    right = right_documents(pairs, np.array([query]))[0]
    return [
        (_document(pairs, j, LONGEST * 2 // 3), bool(right[j])) for j in found.found[query, :TOP]
    ]


def _document(pairs: Pairs, row: int, longest: int) -> str:
    texts = pairs.document_texts
    return f"document {row}" if texts is None else shorten(texts[row], longest)


def shorten(text: str, longest: int = LONGEST) -> str:
    """Return a text on one line, cut to a length with an ellipsis."""
    line = " ".join(text.split()) or "(empty)"
    cut = line[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return line if len(line) <= longest else cut


# Figures --------------------------------------------------------------------------------------


def _figures(outcome: Outcome, shown: Candidate, before: Ranks, after: Ranks) -> dict[str, str]:
    metric, run, name = outcome.gate.metric, outcome.run, _name(shown.name)
    evaluated = [entry for entry in run.history if metric in entry]
    losses = [(entry["step"], entry["loss"]) for entry in run.history if "loss" in entry]
    kept_step = next((e["step"] for e in evaluated if e["epoch"] == run.best_epoch), None)
    note = f"kept: epoch {run.best_epoch}"
    ranked = (before.rank > 0) & (after.rank > 0)
    return {
        "gains": plots.interval_plot(
            [(m, g.low, g.gain, g.high) for m, g in shown.gain.gains.items()],
            title=f"Gain of {name} over the base in each metric, with 95% intervals",
        ),
        "candidates": plots.interval_plot(
            [
                (_name(other), g.low, g.gain, g.high)
                for other, c in outcome.candidates.items()
                if other != "identity" and (g := c.gain.gains[metric])
            ],
            title=f"Gain of each candidate over the base in {metric}, with 95% intervals",
        ),
        "loss": plots.line_chart(
            [plots.Line("loss", losses, "warm")],
            title="Training loss over the steps",
            x_label="step",
            mark=None if kept_step is None or not losses else (kept_step, note),
        ),
        "dev": plots.line_chart(
            [
                plots.Line(
                    m,
                    [(e["epoch"], e[m]) for e in evaluated],
                    "accent" if m == metric else "soft",
                    m == metric,
                )
                for m in METRICS
            ],
            title="Metrics on the dev queries after each epoch",
            x_label="epoch",
            level=(outcome.candidates["identity"].dev[metric], "base"),
            mark=(run.best_epoch, note) if evaluated else None,
        ),
        "scores": plots.histograms(
            plots.distributions(
                [
                    (
                        label,
                        [
                            ("right document", "accent", _finite(look.right)),
                            ("hardest negative", "warm", _finite(look.wrong)),
                        ],
                    )
                    for label, look in (("before: base", before), (f"after: {name}", after))
                ]
            ),
            title="Cosine of right documents and of hardest negatives, before and after",
            x_label="cosine with the query",
        ),
        "ranks": plots.rank_grid(
            plots.rank_table(
                before.rank[ranked].tolist(),
                after.rank[ranked].tolist(),
                largest=int(outcome.test.documents.shape[0]),
            ),
            title="Rank of the first right document before and after",
        ),
    }


def _cuts(before: Ranks, after: Ranks) -> list[tuple[str, float, float]]:
    """Return what a score threshold must be moved by: (what, before, after)."""
    import numpy as np

    rows = []
    for label, old, new, share in (
        ("median of right documents", before.right, after.right, 0.5),
        ("median of hardest negatives", before.wrong, after.wrong, 0.5),
        ("threshold that lets 90% of right documents pass", before.right, after.right, 0.1),
    ):
        if _finite(old) and _finite(new):
            a, b = (float(np.quantile(_finite(x), share)) for x in (old, new))
            rows.append((label, a, b))
    return rows


def _finite(values: Any) -> list[float]:
    return [x for x in values.tolist() if x == x]
