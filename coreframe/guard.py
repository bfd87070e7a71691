"""Steps that are not finite: counted where the arrays are, and explained afterwards.

Counting looks at no value: on a device the count stays there until somebody looks anyway. What was
not finite, and which rows brought it, is found by a second pass over the batch, off the hot path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coreframe.adapter import Pullback
from coreframe.backend import Array, Params, namespace, to_numpy
from coreframe.batch import Batch
from coreframe.compose import under
from coreframe.errors import CoreframeError, Diverged
from coreframe.random import stream
from coreframe.registry import title
from coreframe.regularizer import Regularizer
from coreframe.scheduler import Progress, resolve
from coreframe.step import Step

FEW_ROWS = 8
LOW_TEMPERATURE = 5e-3
LARGE_PARAMETER = 1e4


class Skips:
    """Counts of the updates that were left out: all, those in a row, and the first of them.

    Once ``limit`` of them follow one another, no update is sound any more, so that a device that
    nobody looks at stops learning where the host would.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.total: Any = 0
        self.streak: Any = 0
        self.first: Any = -1

    def seen(self, sound: bool, done: int) -> None:
        """Count an update that the host has looked at."""
        if sound:
            self.streak = 0
            return
        self.total, self.streak = self.total + 1, self.streak + 1
        self.first = done if self.first < 0 else self.first

    def allowed(self, sound: Array) -> Array:
        """Return, on the device, whether an update may be done."""
        if self.limit is None or isinstance(self.streak, int):
            return sound
        return sound & (self.streak < self.limit)

    def unseen(self, sound: Array, done: int, xp: Any) -> None:
        """Count an update that nobody has looked at."""
        lost = xp.astype(~sound, xp.int32)
        self.total = self.total + lost
        self.streak = (self.streak + 1) * lost
        now, first = lost * done - (1 - lost), self.first + 0 * lost
        self.first = xp.where(first < 0, now, first)

    def read(self) -> tuple[int, int, int]:
        """Return all three as numbers, and begin to look for a first one again."""
        found = int(self.total), int(self.streak), int(self.first)
        self.first = -1
        return found

    def restore(self, total: int, streak: int) -> None:
        """Go on from counts that were saved."""
        self.total, self.streak, self.first = total, streak, -1


@dataclass(frozen=True)
class Finding:
    """What was not finite: an array by its name, and the rows of the data that it comes from."""

    array: str
    reason: str
    rows: tuple[int, ...] = ()
    of: str = "queries"

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.array}: {self.reason}"
        shown = ", ".join(str(row) for row in self.rows[:FEW_ROWS])
        more = f" and {len(self.rows) - FEW_ROWS} more" if len(self.rows) > FEW_ROWS else ""
        return f"{self.array}: {self.reason}; rows {shown}{more} of the {self.of}"


def diagnose(
    step: Step,
    inputs: Batch,
    params: Params,
    regularizers: Sequence[Regularizer],
    progress: Progress,
    turn: int,
) -> Finding | None:
    """Return the first array of a batch's step that is not finite; None if all are.

    It goes the way of the step: inputs, parameters, adapter, loss, regularizers, gradients.
    """
    fields = {
        "anchors": (inputs.ids, "queries"),
        "references": (inputs.reference_ids, "documents"),
        "negatives": (inputs.ids, "queries (their own negatives)"),
    }
    for name in (*fields, "weights"):
        if (rows := _bad_rows(getattr(inputs, name))).size:
            ids, of = fields.get(name, (inputs.ids, "queries"))
            return Finding(name, "the input is NaN or infinite", _of_data(rows, ids), of)
    for name, x in params.items():
        if _bad_rows(x).size:
            return Finding(name, "the parameter itself is NaN or infinite")
    own = under("adapter", params)
    xp = namespace(anchors=inputs.anchors)
    adapted: dict[str, Array] = {}
    pullbacks: dict[str, Pullback] = {}
    noise = stream(step.seed, "adapter noise", turn)  # one for all fields, as in the step
    for name in ("anchors",) if step.side == "query" else ("anchors", "references", "negatives"):
        if (x := getattr(inputs, name)) is None:
            continue
        flat = xp.reshape(x, (-1, x.shape[-1]))
        y, pullbacks[name] = step.adapter.forward(own, flat, rng=noise)
        adapted[name] = xp.reshape(y, (*x.shape[:-1], y.shape[-1]))
        if (rows := _bad_rows(adapted[name])).size:
            reason = f"the adapter overflows, its largest parameter is {_peak(own):.3g}"
            return Finding(f"adapted {name}", reason, _of_data(rows, fields[name][0]))
    batch = replace(inputs, **adapted)
    if step.miner is not None:
        rng = stream(step.seed, "miner", turn)
        batch = replace(batch, relation=resolve(step.miner, progress).mine(batch, rng=rng))
    loss = resolve(step.loss, progress)
    result = loss.value_and_grad(batch, under("loss", params), wrt=tuple(adapted))
    kind = title(loss)
    for name, g in result.grads.items():
        if (rows := _bad_rows(g)).size:
            ids, of = fields[name]
            reason = f"the gradient of {kind} is NaN or infinite"
            if not _finite(result.value):
                reason = f"value and gradient of {kind} are NaN or infinite"
            return Finding(f"loss, {name}", reason, _of_data(rows, ids), of)
    if not _finite(result.value):
        rows = _bad_losses(loss, batch, params)
        return Finding("loss", f"the value of {kind} is {float(result.value)}",
                       _of_data(rows, inputs.ids))  # fmt: skip
    for name, g in result.param_grads.items():
        if _bad_rows(g).size:
            return Finding(f"loss.{name}", f"its gradient by {kind} is not finite")
    for i, regularizer in enumerate(regularizers):
        term = resolve(regularizer, progress)
        name = f"regularizers.{i}"
        if term.of == "embeddings":
            arrays = {k: getattr(batch, k) for k in ("anchors", "references")}
            given = {k: x for k, x in arrays.items() if x is not None}
            ids = {"anchors": inputs.ids, "references": inputs.reference_ids}
            found = term.value_and_grad(given, ids=ids)
        else:
            found = term.value_and_grad(own)
        bad = [key for key, g in found.grads.items() if _bad_rows(g).size]
        if bad or not _finite(found.value):
            what = f"the gradient of {bad[0]}" if bad else "the value"
            return Finding(name, f"{what} of {title(term)} is NaN or infinite")
    for name, pullback in pullbacks.items():
        slope = xp.reshape(result.grads[name], (-1, result.grads[name].shape[-1]))
        for key, g in pullback(slope, need_dx=False)[0].items():
            if _bad_rows(g).size:
                return Finding(f"adapter.{key}", "its gradient is NaN or infinite")
    return None


def diverged(
    count: int, finding: Finding | None, step: Step, params: Params, rates: Mapping[str, float]
) -> Diverged:
    """Return the error for a run of which ``count`` updates in a row were left out."""
    peak = _peak(params)
    first = "no array is NaN or infinite any more" if finding is None else str(finding)
    causes = []
    if finding is not None and finding.reason.startswith("the input"):
        causes.append("repair or drop these rows of the data")
    if peak > LARGE_PARAMETER or (finding is not None and finding.array.startswith("adapted")):
        rate = f", now {rates['learning_rate']:g}" if "learning_rate" in rates else ""
        causes.append(
            f"the largest parameter is {peak:.3g}: a lower learning rate{rate}, a warm-up, or "
            "max_grad_norm keeps it smaller"
        )
    temperature = _temperature(step.loss, rates)
    if temperature is not None and temperature < LOW_TEMPERATURE:
        causes.append(
            f"the temperature {temperature:g} is very low: similarities are divided by it, and "
            "0.05 is usual"
        )
    dtype = str(next(iter(params.values())).dtype).rpartition(".")[-1]
    if dtype in ("float16", "bfloat16"):
        causes.append(f"parameters of {dtype} overflow early: train in float32")
    if not causes:
        causes.append("a loss or a regularizer of your own returns what is not finite, or the "
                      "learning rate is too high")  # fmt: skip
    return Diverged(
        f"{count} updates in a row were left out because they were not finite; parameters and "
        f"averages are those before them. {first}. What helps: {'; '.join(causes)}. "
        "(max_skipped_steps says how many in a row are too many.)"
    )


def _bad_rows(x: Array | None) -> Any:
    """Return the numbers of the rows of an array that are not finite, on the host."""
    if x is None:
        return np.zeros(0, np.int64)
    found = ~np.isfinite(to_numpy(x))
    return np.nonzero(found.reshape(found.shape[0] if found.ndim else 1, -1).any(axis=1))[0]


def _finite(x: Array) -> bool:
    return not _bad_rows(x).size


def _of_data(rows: Any, ids: Any) -> tuple[int, ...]:
    """Return the rows of a batch as rows of the data, where these are known."""
    numbers = rows if ids is None else np.asarray(to_numpy(ids))[rows]
    return tuple(int(row) for row in numbers)


def _bad_losses(loss: Any, batch: Batch, params: Params) -> Any:
    """Return the rows whose own loss is not finite, of a loss that can say so."""
    try:
        each = replace(loss, reduction="none").value_and_grad(batch, under("loss", params))
    except (TypeError, CoreframeError):
        return np.zeros(0, np.int64)
    return _bad_rows(each.value)


def _peak(params: Params) -> float:
    sizes = [float(np.max(np.abs(to_numpy(x)))) for x in params.values() if 0 not in x.shape]
    return max(sizes, default=math.nan)


def _temperature(loss: Any, rates: Mapping[str, float]) -> float | None:
    for path, value in rates.items():
        if path.endswith(".temperature"):
            return value
    own = getattr(loss, "temperature", None)
    return float(own) if isinstance(own, int | float) else None
