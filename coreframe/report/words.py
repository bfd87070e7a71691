"""What a report says in words: names of candidates, the verdict, the lines that apply a result."""

from __future__ import annotations

from coreframe.artefact import TrainedAdapter
from coreframe.outcome import PREVIOUS, Outcome
from coreframe.plots import signed

LONGEST = 200

_NAMES = {
    "identity": "base",
    "trained": "trained adapter",
    "procrustes": "Procrustes",
    PREVIOUS: "earlier adapter",
}
_ABOUT = {
    "identity": "the vectors as they are",
    "whitening": "closed form: evens out the directions that all vectors share",
    "procrustes": "closed form: rotates queries onto their documents",
    PREVIOUS: "what was there before this run",
}


def name_of(candidate: str) -> str:
    """Return what a candidate is called."""
    return _NAMES.get(candidate, candidate)


def about(outcome: Outcome, candidate: str) -> str:
    """Return what a candidate is, in a few words."""
    if candidate != "trained":
        return _ABOUT.get(candidate, "")
    start = "the identity" if outcome.start == "identity" else f"the {name_of(outcome.start)}"
    start = "Procrustes" if outcome.start == "procrustes" else start
    return f"starts at {start}, best epoch on dev: {outcome.run.best_epoch}"


def status(outcome: Outcome, candidate: str) -> str:
    """Return what became of a candidate; empty for one that nothing became of."""
    if candidate == outcome.promoted:
        return "kept and promoted" if outcome.gate.passed else "kept"
    return "best on dev, not promoted" if candidate == outcome.kept else ""


def verdict(outcome: Outcome) -> tuple[str, list[str]]:
    """Return the headline of a run and the sentences below it."""
    gate, kept = outcome.gate, outcome.kept
    name, queries = name_of(kept), f"{len(outcome.test):,} unseen queries"
    over = outcome.over_previous or outcome.comparison
    if gate.passed:
        gain = over.gains[gate.metric]
        index = (
            "It moves documents too, so their index must be rebuilt."
            if outcome.adapter.rebuilds_index
            else "It moves queries only: the index stays as it is."
        )
        base = " of the earlier adapter" if outcome.continued else ""
        more = outcome.if_rebuilt
        return f"Better: {name} kept and promoted", [
            f"On {queries} {gate.metric} went from {gain.base:.3f}{base} to {gain.adapted:.3f}: "
            f"{signed(gain.gain)}, 95% interval {signed(gain.low)} to {signed(gain.high)}.",
            f"{gain.better:,} queries got better, {gain.worse:,} worse, {gain.same:,} stayed the "
            f"same. {index}",
            *([f"{more[0].upper()}{more[1:]}."] if more else ()),
        ]
    lines = [f"Reason: {gate.reason}."]
    stays = name_of(outcome.reference) if outcome.continued else "identity"
    if kept != outcome.reference:
        found = "loss is proven" if gate.high < 0 else "gain is not proven"
        if gate.low > gate.minimum_gain:
            found = "gain is not enough"
        start = f"{name[0].upper()}{name[1:]} was best on dev, but on {queries}"
        lines.insert(0, f"{start} its {found}: nothing is promoted.")
    if gate.hint:
        lines.append(f"Hint: {gate.hint}.")
    if more := outcome.if_rebuilt:
        lines.append(f"{more[0].upper()}{more[1:]}.")
    return f"No proof of gain: {stays} kept", lines


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


def shorten(text: str, longest: int = LONGEST) -> str:
    """Return a text on one line, cut to a length with an ellipsis."""
    line = " ".join(text[: 8 * longest].split()) or "(empty)"
    cut = line[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return line if len(line) <= longest and len(text) <= 8 * longest else cut
