"""What is not finite never reaches the parameters: it is counted and named, and ends the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support import LIBRARIES, LibraryMissing, assert_near

from coreframe import Pairs, Regularizer, fit
from coreframe.adapter import Adapter
from coreframe.errors import ArgumentError, Diverged
from coreframe.loop import Setup, Trainer
from coreframe.result import LossResult
from coreframe.scheduler import Progress, Scheduler
from coreframe_adapters.linear import Linear
from coreframe_losses.info_nce import InfoNCE
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.l2 import L2

N, D, STEPS = 24, 4, 6
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class Backend:
    """Where the arrays of a library of the tests live."""

    def __init__(self, library: Any) -> None:
        self.name, self.xp, self.device, self.library = library.name, library.xp, None, library

    def missing(self) -> None:
        return None

    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        x = self.library.asarray(x) if isinstance(x, np.ndarray | np.generic) else x
        return x if dtype is None or x.dtype == dtype else self.xp.astype(x, dtype)

    def to_numpy(self, x: Any, /) -> Any:
        return self.library.to_numpy(x)

    def synchronize(self) -> None:
        return None

    def memory(self) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class At(Scheduler):
    """NaN (or what is said) at one step, 1 at all others."""

    step: int
    then: float = float("nan")

    def __call__(self, progress: Progress) -> float:
        return self.then if progress.step == self.step else 1.0


@dataclass(frozen=True, kw_only=True)
class Broken(InfoNCE):
    """InfoNCE whose value, gradients or own gradients are multiplied by a scheduled number."""

    value_by: float | Scheduler = 1.0
    grads_by: float | Scheduler = 1.0
    own_by: float | Scheduler = 1.0

    def value_and_grad(self, batch, params=None, *, wrt=None):
        found = super().value_and_grad(batch, params, wrt=wrt)
        return LossResult(
            found.value * self.value_by,
            {k: g * self.grads_by for k, g in found.grads.items()},
            {k: g * self.own_by for k, g in found.param_grads.items()},
        )


@dataclass(frozen=True, kw_only=True)
class BrokenTerm(L2):
    """L2 whose value or gradient is multiplied by a scheduled number."""

    value_by: float | Scheduler = 1.0
    grads_by: float | Scheduler = 1.0

    def value_and_grad(self, arrays, *, ids=None):
        found = super().value_and_grad(arrays, ids=ids)
        grads = {k: g * self.grads_by for k, g in found.grads.items()}
        return LossResult(found.value * self.value_by, grads)


@dataclass(frozen=True, kw_only=True)
class BrokenAdapter(Linear):
    """A linear adapter of which the gradient of one parameter is NaN where a row has a mark."""

    of: str = "W"

    def forward(self, params, x, *, rng):
        y, pullback = super().forward(params, x, rng=rng)

        def broken(dy, *, need_dx=True):
            grads, dx = pullback(dy, need_dx=need_dx)
            return {**grads, self.of: grads[self.of] / (1.0 - marked(x))}, dx

        return y, broken


def marked(x: Any) -> Any:
    """Return 1, as an array, where a batch holds the row 7 of the data, whose entries are 5."""
    from coreframe.backend import namespace

    xp = namespace(x=x)
    return xp.astype(xp.any(x == 5.0), x.dtype)


def data(library, bad: int | None = None) -> Pairs:
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((2, N, D)).astype(np.float32)
    queries[7] = 5.0
    pairs = Pairs(library.asarray(queries), library.asarray(documents))
    if bad is not None:  # on a device nobody looks while it is made
        queries[bad, 1] = np.nan
        object.__setattr__(pairs, "queries", library.asarray(queries))
    return pairs


def trained(library, pairs=None, **options):
    """Train and return the trainer and the run."""
    defaults = {
        "adapter": Linear(bias=True), "loss": InfoNCE(learnable_scale=True),
        "optimizer": AdamW(learning_rate=0.05), "side": "query", "epochs": 1,
        "batch_size": N // STEPS, "metric": "ndcg@10", "seed": 3, "ema_decay": 0.9,
    }  # fmt: skip
    setup = Setup(**{**defaults, **options})
    pairs = data(library) if pairs is None else pairs
    trainer = Trainer(setup, pairs, None, Backend(library), [])
    return trainer, trainer.run()


def assert_finite(library, trainer):
    for name, x in trainer.updates.arrays().items():
        if not isinstance(x, int):
            assert np.isfinite(library.to_numpy(x)).all(), name


INJECTED = {
    "loss value": (lambda at: {"loss": Broken(learnable_scale=True, value_by=at)}, "loss"),
    "loss gradient": (
        lambda at: {"loss": Broken(learnable_scale=True, grads_by=at)}, "loss, anchors",
    ),
    "gradient of the loss's parameter": (
        lambda at: {"loss": Broken(learnable_scale=True, own_by=at)}, "loss.log_scale",
    ),
    "regularizer value": (
        lambda at: {"regularizers": (BrokenTerm(value_by=at),)}, "regularizers.0",
    ),
    "regularizer gradient": (
        lambda at: {"regularizers": (L2(), BrokenTerm(grads_by=at))}, "regularizers.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", INJECTED)
def test_nan_in_any_array_at_any_step_is_left_out_counted_and_named(library, what):
    options, array = INJECTED[what]
    for step in range(STEPS) if library.name == "numpy" else (3,):
        trainer, run = trained(library, **options(At(step=step)))
        assert run.skipped_steps == 1
        assert_finite(library, trainer)
        assert len(run.findings) == 1
        assert run.findings[0].startswith(
            f"update {step + 1} (epoch 1) was left out, since it was not finite. {array}: "
        )


@pytest.mark.parametrize("of", ["W", "b"])
def test_nan_in_the_gradient_of_any_parameter_is_named(library, of):
    trainer, run = trained(library, adapter=BrokenAdapter(bias=True, of=of))
    assert run.skipped_steps == 1
    assert_finite(library, trainer)
    assert f"adapter.{of}: its gradient is NaN or infinite" in run.findings[0]


def test_rows_that_are_not_finite_are_named_by_their_place_in_the_data():
    """On a device nobody looks at the data, so that a bad row comes as far as a step."""
    try:
        library = LIBRARIES["array-api-strict-device1"]()
    except LibraryMissing as reason:
        pytest.skip(str(reason))
    trainer, run = trained(library, data(library, bad=5), epochs=3)
    assert run.skipped_steps == 3
    assert_finite(library, trainer)
    for finding in run.findings:
        assert "anchors: the input is NaN or infinite; rows 5 of the queries" in finding
    with pytest.raises(Diverged) as caught:
        trained(library, data(library, bad=5), batch_size=N, epochs=20, max_skipped_steps=4)
    text = str(caught.value)
    assert "rows 5 of the queries" in text
    assert "repair or drop these rows of the data" in text


def test_an_adapter_that_overflows_is_left_out_and_not_an_error_of_the_batch(library):
    """On the host the embeddings behind the adapter are checked before the loss is asked."""
    huge = np.full((D, D), 3e38, np.float32)
    initial = {"adapter.W": huge, "adapter.b": np.zeros(D, np.float32)}
    initial |= {f"loss.{name}": np.asarray(1.0, np.float32) for name in ("log_scale", "bias")}
    with pytest.raises(Diverged) as caught:
        trained(library, initial=initial, max_skipped_steps=3)
    text = str(caught.value)
    assert "3 updates in a row were left out" in text
    assert "adapted anchors: the adapter overflows, its largest parameter is 3e+38" in text
    assert "a lower learning rate, now 0.05" in text


def test_a_parameter_that_an_update_made_infinite_is_not_an_error_of_the_batch(library):
    """Gradients are finite, and learning rate times decay takes the parameter past float32."""
    optimizer = AdamW(learning_rate=1e12, weight_decay=1.0)
    with pytest.raises(Diverged) as caught:
        trained(library, optimizer=optimizer, epochs=4, max_skipped_steps=3)
    text = str(caught.value)
    assert "3 updates in a row were left out" in text
    assert "adapter.W: the parameter itself is NaN or infinite" in text
    assert "the largest parameter is inf: a lower learning rate" in text


def test_too_many_in_a_row_end_the_run(library):
    loss = Broken(learnable_scale=True, value_by=float("inf"), temperature=1e-3)
    with pytest.raises(Diverged) as caught:
        trained(library, loss=loss, epochs=3)
    text = str(caught.value)
    assert " updates in a row were left out because they were not finite" in text
    assert "the value of Broken is inf" in text
    _, run = trained(library, loss=loss, epochs=3, max_skipped_steps=None)
    assert run.skipped_steps == 3 * STEPS
    assert len(run.findings) == 3  # each takes a second pass, so the first few will do


def test_a_low_temperature_is_said():
    library = LIBRARIES["numpy"]()
    loss = Broken(value_by=float("nan"), temperature=1e-3)
    with pytest.raises(Diverged, match=r"the temperature 0\.001 is very low"):
        trained(library, loss=loss, max_skipped_steps=2)


def test_a_device_that_nobody_looks_at_stops_learning_where_the_host_would():
    """Ten in a row and then sound ones: the host stops at the tenth, a device at its next look."""
    try:
        library = LIBRARIES["array-api-strict-device1"]()
    except LibraryMissing as reason:
        pytest.skip(str(reason))

    @dataclass(frozen=True, kw_only=True)
    class From(Scheduler):
        def __call__(self, progress):
            return float("nan") if 2 <= progress.step < 5 else 1.0

    found = []
    for here in (library, LIBRARIES["numpy"]()):
        setup = Setup(
            adapter=Linear(), optimizer=SGD(learning_rate=0.1), side="query", epochs=1,
            batch_size=N // STEPS, metric="ndcg@10", seed=3, max_skipped_steps=3,
            loss=Broken(value_by=From()),
        )  # fmt: skip
        trainer = Trainer(setup, data(here), None, Backend(here), [])
        trainer.log_every = 1000
        with pytest.raises(Diverged) as caught:
            trainer.run()
        found.append((here.to_numpy(trainer.updates.params["adapter.W"]), str(caught.value)))
    (on_device, late), (on_host, at_once) = found
    assert late.startswith("4 updates in a row")  # the sixth was sound, and was left out as well
    assert at_once.startswith("3 updates in a row")
    assert_near(on_device, on_host, 1e-5)


def test_a_run_that_is_sound_says_nothing(library, caplog):
    with caplog.at_level(logging.WARNING, "coreframe"):
        _, run = trained(library)
    assert (run.skipped_steps, run.findings, caplog.messages) == (0, (), [])


def test_a_window_of_several_batches_is_named_by_its_batch(library):
    trainer, run = trained(
        library, adapter=BrokenAdapter(bias=True), gradient_accumulation_steps=2, epochs=2
    )
    assert run.skipped_steps == 2
    assert [f.split(" was")[0].split(" (")[1] for f in run.findings] == ["epoch 1)", "epoch 2)"]
    assert all("adapter.W: its gradient is NaN" in f for f in run.findings)
    assert_finite(library, trainer)


def test_what_is_found_is_logged_as_it_happens(caplog):
    loss = Broken(learnable_scale=True, value_by=At(step=2))
    with caplog.at_level(logging.WARNING, "coreframe"):
        _, run = trained(LIBRARIES["numpy"](), loss=loss)
    assert caplog.messages == list(run.findings)


def test_an_error_that_is_none_of_these_goes_through():
    class Wrong(Regularizer):
        def value_and_grad(self, arrays, *, ids=None):
            raise ArgumentError("my own")

    pairs = Pairs(np.eye(8), np.eye(8))
    with pytest.raises(ArgumentError, match="my own"):
        fit(pairs, regularizers=[Wrong()], epochs=1)
    assert issubclass(Linear, Adapter)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_that_is_none(limit):
    with pytest.raises(ArgumentError, match="max_skipped_steps must be a whole number from 1"):
        fit(Pairs(np.eye(8), np.eye(8)), max_skipped_steps=limit)
