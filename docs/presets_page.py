"""docs/presets.md, made from the presets of our own components."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from coreframe import registry
from coreframe.component import Known, Preset, presets

INTRODUCTION = """\
# Presets: the defaults of papers and of other libraries

Libraries give one name to different numbers. A triplet loss has a margin of 0.05 in one library,
of 1 in a second and of 5 in a third; InfoNCE a temperature of 0.07 or a scale of 20, which is 0.05.
A preset is a name for the values under which a component equals something known: a class of
another library as it is by default, or an equation of a paper.

```python
from coreframe_losses.info_nce import InfoNCE

loss = InfoNCE.preset("sentence-transformers")
assert loss.temperature == 1 / 20  # MultipleNegativesRankingLoss(scale=20.0)
colder = InfoNCE.preset("sentence-transformers", temperature=0.02)  # what is given is stronger
```

In [the file of a run](configuration.md) it is the key `preset`. Fields beside it are stronger; the
`run.toml` that is stored with the results names every field by its value, and no preset.

```toml
[[losses]]
name = "info_nce"
preset = "sentence-transformers"

[optimizer]
name = "adamw"
preset = "transformers"
learning_rate = { scheduler = "warmup_cosine", preset = "transformers", peak = 5e-5 }
```

`--set losses.0.preset=paper` drops the other fields of that table, so that none of them hides the
preset; what is set behind it changes fields again.

`coreframe show losses info_nce` lists the presets of one component, `coreframe list --presets` all,
plugins included, and `coreframe list --presets --json` for programs; in Python,
`coreframe.component.presets()`.

What an entry says is tested: with the library installed, value and gradient (or every value of a
schedule, every step of an optimizer) are compared with the class that it names, and that class's
own defaults with those that were read here. A subclass of a component inherits no preset, since it
computes something else. A plugin offers presets by [a class attribute](#in-a-plugin).
"""

WITHOUT = "Some defaults have no preset, since no values of fields give the same numbers:"

NO_PRESET = (
    (
        "pytorch-metric-learning's `TripletMarginLoss(margin=0.05)`",
        "losses/triplet",
        "it scales rows to unit length, and its mean is over the triplets that are above 0, not "
        "over anchors",
    ),
    (
        "pytorch-metric-learning's `ContrastiveLoss(pos_margin=0, neg_margin=1)`",
        "losses/contrastive",
        "its terms are not squared, and rows are scaled to unit length",
    ),
    (
        "OML's `TripletLoss(margin)`",
        "losses/triplet",
        "its margin has no default, and with None it is a soft form that is not here; "
        "with the same margin it is torch's",
    ),
    (
        "Keras's `Adam` and `AdamW`",
        "optimizers/adam",
        "epsilon stands before the bias correction",
    ),
    (
        "torch's `OneCycleLR`",
        "schedulers/one_cycle",
        "one step ahead: `steps=T - 1, warmup_steps=(p T - 1) / (T - 1)`",
    ),
    (
        "Keras's `PiecewiseConstantDecay`",
        "schedulers/piecewise",
        "one step later: add 1 to each boundary",
    ),
)
"""What stands elsewhere, the component that is nearest, and what remains."""

ENDING = """\
## In a plugin

```python
from dataclasses import dataclass

from coreframe import RowLoss, namespace
from coreframe.component import Preset


@dataclass(frozen=True, kw_only=True)
class Huber(RowLoss):
    delta: float = 1.0

    needs = ("anchors", "references")
    presets = {
        "torch": Preset(
            equals="torch.nn.HuberLoss",
            fields={"delta": 1.0},
            arguments={"delta": 1.0, "reduction": "mean"},
            version="torch 2.13.0",
        ),
    }

    def rows(self, arrays, batch):
        xp = namespace(anchors=arrays["anchors"])
        apart = arrays["anchors"] - arrays["references"]
        near = xp.clip(apart, -self.delta, self.delta)
        slope = near / apart.shape[1]
        return xp.mean(near * (apart - near / 2), axis=1), {"anchors": slope, "references": -slope}


assert Huber.preset("torch") == Huber()
```

`fields` are values of the component's own fields, `equals` says what it is with them, and
`arguments` are those of the other class, so that a test of yours can notice when its defaults
change. If the other's value is this one times a number, that is `weight`: under `[[losses]]` the
preset brings it, in Python it is for the caller to give.
"""


def page() -> str:
    """Return the text of docs/presets.md."""
    ours = {
        (kind, entry.name)
        for kind in {known.kind for known in presets()}
        for entry in registry.registry().entries(kind)
        if entry.plugin.built_in
    }
    found = [known for known in presets() if (known.kind, known.component) in ours]
    parts = [INTRODUCTION.strip()]
    for kind, of_kind in groupby(found, key=lambda known: known.kind):
        parts.append(f"## {kind.capitalize()}")
        for name, rows in groupby(of_kind, key=lambda known: known.component):
            parts.append(_section(kind, name, list(rows)))
    lines = ["| elsewhere | here | what remains |", "|---|---|---|"]
    for there, here, remains in NO_PRESET:
        name = here.partition("/")[2]
        lines.append(f"| {there} | [`{name}`](components/{here}.md) | {remains} |")
    parts += ["## No preset", WITHOUT, "\n".join(lines), ENDING.strip()]
    return "\n\n".join(parts) + "\n"


def _section(kind: str, name: str, rows: list[Known]) -> str:
    component = registry.registry().find(kind, f"{registry.BUILT_IN}:{name}").load()
    title = f"### [`{name}`](components/{kind}/{name}.md)"
    return f"{title}\n\n{of(component, {row.name: row.preset for row in rows})}"


def of(component: Any, presets: Mapping[str, Preset]) -> str:
    """Return the table of one component's presets, and what remains to be said of them."""
    defaults = registry.parameters(component)
    columns = list(dict.fromkeys(field for preset in presets.values() for field in preset.fields))
    lines = [
        "| preset | " + " | ".join(f"`{field}`" for field in columns) + " | equals |",
        "|---" * (len(columns) + 2) + "|",
        "| *by default* | " + " | ".join(_default(defaults[f].default) for f in columns) + " | |",
    ]
    notes = []
    for name, preset in presets.items():
        given = preset.fields
        cells = [_value(given[f]) if f in given else "" for f in columns]
        source = f"`{preset}`, {preset.version}" if preset.version else preset.equals
        lines.append(f"| `{name}` | " + " | ".join(cells) + f" | {source} |")
        if preset.note:
            notes.append(f"- `{name}`: {preset.note}")
    return "\n\n".join(["\n".join(lines), *(["\n".join(notes)] if notes else [])])


def _default(value: Any) -> str:
    return "required" if value is inspect.Parameter.empty else _value(value)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"`{value!r}`"
