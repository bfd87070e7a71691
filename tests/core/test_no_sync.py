"""No looks at values inside of a step: on a GPU each one waits for all work before it.

array-api-strict's second device stands in for a GPU. Whatever would bring a value to the host is
counted, and what has a shape that depends on values is refused.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from support import LIBRARIES, Library, LibraryMissing

from coreframe import (
    Batch,
    Loss,
    Mined,
    Miner,
    Pairs,
    Regularizer,
    Symmetric,
    WeightedSum,
    registry,
)
from coreframe.adapter import Adapter, ClosedForm
from coreframe.callbacks import Callback
from coreframe.gradients import Accumulation, MovingAverage, clip_by_global_norm, clip_by_value
from coreframe.loop import Setup, Trainer
from coreframe.relation import Listed
from coreframe_adapters.chain import Chain
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.micro_lora import MicroLoRA
from coreframe_adapters.procrustes import Procrustes
from coreframe_adapters.recomputed import Recomputed
from coreframe_adapters.whitening import Whitening
from coreframe_losses.contrastive import Contrastive
from coreframe_losses.cosine_embedding import CosineEmbedding
from coreframe_losses.cross_entropy import CrossEntropy
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.local_contrastive import LocalContrastive
from coreframe_losses.mse import MSE
from coreframe_losses.nca import NCA
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet
from coreframe_miners.distance_weighted import DistanceWeighted
from coreframe_miners.hardest import Hardest
from coreframe_miners.in_batch import InBatch
from coreframe_miners.random import Random
from coreframe_miners.semi_hard import SemiHard
from coreframe_miners.softmax_weighted import SoftmaxWeighted
from coreframe_optimizers.adam import Adam
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.ewc import EWC
from coreframe_regularizers.graph_laplacian import GraphLaplacian
from coreframe_regularizers.l2 import L2
from coreframe_regularizers.variance_of_variances import VarianceOfVariances
from coreframe_schedulers.warmup_cosine import WarmupCosine

xp = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
Array = type(xp.asarray(0))
WAYS = ("__bool__", "__int__", "__float__", "__complex__", "__index__", "__iter__", "__array__",
        "__buffer__", "__dlpack__", "to_device")  # fmt: skip
N, D, K = 12, 6, 3


@pytest.fixture(scope="module")
def device() -> Library:
    try:
        return LIBRARIES["array-api-strict-device1"]()
    except LibraryMissing as reason:
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COREFRAME_CHECKS", raising=False)


@contextmanager
def looks() -> Iterator[list[str]]:
    """Collect who looks at a value: the way, and the nearest line outside of the library."""
    found: list[str] = []

    def spy(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def look(self: Any, *args: Any, **kwargs: Any) -> Any:
            stack = traceback.extract_stack()[:-1]
            line = next(x for x in reversed(stack) if "array_api" not in x.filename)
            found.append(f"{name} in {line.filename}:{line.lineno}")
            return original(self, *args, **kwargs)

        return look

    with pytest.MonkeyPatch.context() as patch:
        for name in WAYS:
            if hasattr(Array, name):
                patch.setattr(Array, name, spy(name, getattr(Array, name)))
        with xp.ArrayAPIStrictFlags(data_dependent_shapes=False, boolean_indexing=False):
            yield found


def assert_no_looks(call: Callable[[], Any]) -> None:
    """Assert that a call makes none, once all is imported and cached."""
    call()
    with looks() as found:
        call()
    assert found == []


def test_a_look_is_seen(device: Library) -> None:
    """Each way by which a value can come to the host, or a shape can depend on it."""
    x = device.asarray(np.ones(2))
    one = x[0]
    ways: list[Callable[[], Any]] = [
        lambda: bool(one > 0),
        lambda: float(one),
        lambda: int(xp.astype(one, xp.int64)),
        lambda: range(xp.astype(one, xp.int64)),
        lambda: list(x),
        lambda: device.to_numpy(x),
    ]
    for way in ways:
        with looks() as found:
            way()
        assert found
        assert all("test_no_sync.py" in x or "support.py" in x for x in found), found
    with looks(), pytest.raises(RuntimeError):
        xp.nonzero(x)


# Batches -------------------------------------------------------------------------------------


def arrays(device: Library, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [device.asarray(rng.standard_normal(shape), "float32") for shape in shapes]


def batch(device: Library, kind: str) -> Batch:
    a, b, own = arrays(device, (N, D), (N, D), (N, K, D))
    labels = device.asarray(np.arange(N) % 4)
    if kind == "pairs":
        return Batch.pairs(a, b)
    if kind == "weights and ids":
        weights = device.asarray(np.arange(N), "float32")
        return Batch.pairs(a, b, ids=labels, weights=weights)
    if kind == "own negatives":
        return Batch.with_negatives(a, b, own=own)
    if kind == "triplets":
        return Batch.triplets(a, b, own)
    if kind == "labels":
        return Batch.labelled(a, labels)
    if kind == "labelled pairs":
        return Batch.labelled_pairs(a, b, device.asarray(np.arange(N) % 2))
    if kind == "listed":
        rows = np.arange(N, dtype=np.int32)[:, None]
        negatives = device.asarray((rows + np.arange(1, 4, dtype=np.int32)) % N)
        return Batch(anchors=a, references=b, relation=Listed(device.asarray(rows), negatives, N))
    assert kind == "classes"
    return Batch(
        anchors=a, labels=device.asarray(np.arange(N) % D), relation=batch(device, "pairs").relation
    )


KINDS = ("pairs", "weights and ids", "own negatives", "triplets", "labels", "labelled pairs",
         "listed", "classes")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_batches(device: Library, kind: str) -> None:
    assert_no_looks(lambda: batch(device, kind))


PAIRWISE = ("pairs", "weights and ids", "own negatives", "triplets", "labels", "listed")
LOSSES: dict[str, tuple[Loss, tuple[str, ...]]] = {
    "info_nce": (InfoNCE(), PAIRWISE),
    "info_nce, symmetric": (InfoNCE(symmetric=True), PAIRWISE[:2]),
    "info_nce, learnable scale": (InfoNCE(learnable_scale=True), PAIRWISE),
    "info_nce, in blocks": (InfoNCE(memory_budget=1, similarity="euclidean"), PAIRWISE),
    "sup_con": (SupCon(), PAIRWISE),
    "nca": (NCA(), PAIRWISE),
    "triplet": (Triplet(), PAIRWISE),
    "triplet, all": (Triplet(mode="all"), PAIRWISE),
    "triplet, semi-hard": (Triplet(mode="semi_hard"), PAIRWISE),
    "local_contrastive": (LocalContrastive(), PAIRWISE),
    "contrastive": (Contrastive(reduction="mean_active"), (*PAIRWISE, "labelled pairs")),
    "cosine_embedding": (CosineEmbedding(), ("pairs", "labelled pairs")),
    "cross_entropy": (CrossEntropy(label_smoothing=0.1), ("classes",)),
    "mse": (MSE(), ("pairs", "weights and ids")),
    "mined": (Mined(miner=Hardest(k=2), loss=InfoNCE()), ("pairs", "labels")),
    "symmetric": (Symmetric(loss=InfoNCE()), ("pairs",)),
    "weighted_sum": (
        WeightedSum(losses={"near": InfoNCE(), "exact": MSE()}, weights={"near": 1, "exact": 2}),
        ("pairs",),
    ),
}  # fmt: skip


def ours(kind: str) -> set[str]:
    """Return the names of our own components of a kind."""
    return {e.name for e in registry.registry().entries(kind) if e.plugin.built_in}


def words(table: dict[str, Any]) -> set[str]:
    return {name.partition(",")[0] for name in table}


def test_every_component_is_here() -> None:
    assert words(LOSSES) == ours("losses")
    assert words(MINERS) == ours("miners")
    assert words(OPTIMIZERS) == ours("optimizers")
    assert words(REGULARIZERS) == ours("regularizers")
    assert words(ADAPTERS) == ours("adapters")


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, (_, kinds) in LOSSES.items() for kind in kinds]
)
def test_losses(device: Library, name: str, kind: str) -> None:
    loss, given = LOSSES[name][0], batch(device, kind)
    params = {key: device.asarray(x) for key, x in loss.init(np.random.default_rng(0), D).items()}
    assert_no_looks(lambda: loss.value_and_grad(given, params or None))


MINERS: dict[str, Miner] = {
    "distance_weighted": DistanceWeighted(k=2),
    "hardest": Hardest(k=2),
    "in_batch": InBatch(threshold=0.5),
    "random": Random(k=2),
    "semi_hard": SemiHard(k=2),
    "softmax_weighted": SoftmaxWeighted(k=2),
}


@pytest.mark.parametrize("kind", ["pairs", "weights and ids"])
@pytest.mark.parametrize("name", MINERS)
def test_miners(device: Library, name: str, kind: str) -> None:
    given = batch(device, kind)
    assert_no_looks(lambda: MINERS[name].mine(given, rng=np.random.default_rng(0)))


# Parameters ----------------------------------------------------------------------------------


def parameters(device: Library) -> tuple[dict[str, Any], dict[str, Any]]:
    w, b, dw, db = arrays(device, (D, D), (D,), (D, D), (D,))
    return {"W": w, "b": b}, {"W": dw, "b": db}


OPTIMIZERS = {
    "adam": Adam(weight_decay=0.1),
    "adam, decoupled": Adam(weight_decay=0.1, decoupled=True),
    "adamw": AdamW(),
    "sgd": SGD(momentum=0.9, nesterov=True, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(device: Library, name: str) -> None:
    params, grads = parameters(device)
    state = OPTIMIZERS[name].init(params)
    assert_no_looks(lambda: OPTIMIZERS[name].update(params, grads, state))


@pytest.mark.parametrize("clip", [clip_by_value, clip_by_global_norm])
def test_clipping(device: Library, clip: Callable[..., Any]) -> None:
    _, grads = parameters(device)
    assert_no_looks(lambda: clip(grads, 0.1))


def test_accumulation_and_averages(device: Library) -> None:
    params, grads = parameters(device)
    window, average = Accumulation(steps=2), MovingAverage(decay=0.9)

    def both() -> None:
        held = window.add(window.init(grads), grads, weight=grads["b"][0])
        held = window.add(held, grads, weight=2.0)
        window.mean(held)
        average.params(average.update(average.init(params), params))

    assert_no_looks(both)


REGULARIZERS: dict[str, Regularizer] = {
    "ewc": EWC(strength=1.0).learned(
        {"W": np.ones((D, D)), "b": np.ones(D)}, {"W": np.ones((D, D)), "b": np.ones(D)}
    ),
    "ewc, proximal": EWC(strength=1.0, proximal=True).learned(
        {"W": np.ones((D, D)), "b": np.ones(D)}, {"W": np.ones((D, D)), "b": np.ones(D)}
    ),
    "graph_laplacian": GraphLaplacian(edges=np.asarray([[0, 1], [1, 2], [5, 7]])),
    "l2": L2(),
    "variance_of_variances": VarianceOfVariances(),
}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizers(device: Library, name: str) -> None:
    params, _ = parameters(device)
    a, b = arrays(device, (N, D), (N, D))
    term = REGULARIZERS[name].begin(params)
    if term.of == "embeddings":
        ids = {"anchors": np.arange(N), "references": np.arange(N)}
        assert_no_looks(lambda: term.value_and_grad({"anchors": a, "references": b}, ids=ids))
        return

    def call() -> None:
        term.value_and_grad(params)
        term.after_step(params, dict.fromkeys(params, 0.1))

    assert_no_looks(call)


THREE = {"one": LowRank(rank=2), "two": Linear(bias=True), "three": LowRank(rank=1)}
ADAPTERS: dict[str, Adapter] = {
    "chain": Chain(adapters=THREE),
    "linear": Linear(bias=True),
    "low_rank": LowRank(rank=2),
    "micro_lora": MicroLoRA(rank=2),
    "procrustes": Procrustes(),
    "recomputed": Recomputed(adapter=Chain(adapters=THREE)),
    "whitening": Whitening(),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(device: Library, name: str) -> None:
    adapter = ADAPTERS[name]
    rng = np.random.default_rng(0)
    if isinstance(adapter, ClosedForm):
        params = adapter.solve(*rng.standard_normal((2, N, D)).astype(np.float32))
    else:
        params = adapter.init(rng, D)
    params = {key: device.asarray(x, "float32") for key, x in params.items()}
    x, dy = arrays(device, (N, D), (N, D))

    def call() -> None:
        _, pullback = adapter.forward(params, x, rng=np.random.default_rng(0))
        pullback(dy)
        adapter.squared_gradients(params, x, dy)

    assert_no_looks(call)


# A step --------------------------------------------------------------------------------------


class Backend:
    """array-api-strict on its second device."""

    name = "array_api_strict"
    xp = xp

    def __init__(self, library: Library) -> None:
        self.device = xp.Device("device1")
        self.library = library

    def missing(self) -> None:
        return None

    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        x = x if isinstance(x, Array) else np.asarray(x)
        return xp.asarray(x, dtype=dtype, device=self.device)

    def to_numpy(self, x: Any, /) -> Any:
        return self.library.to_numpy(x)

    def synchronize(self) -> None:
        pass

    def memory(self) -> int:
        return 0


class Marks(Callback):
    """Notes how many looks there were when a step was logged."""

    def __init__(self, found: list[str]) -> None:
        self.found = found
        self.at: list[int] = []

    def on_step(self, status: Any) -> None:
        self.at.append(len(self.found))


STEPS: dict[str, dict[str, Any]] = {
    "query side": {"adapter": LowRank(rank=2), "loss": InfoNCE(), "side": "query"},
    "both sides, mined, with all else": {
        "adapter": Linear(bias=True),
        "loss": InfoNCE(learnable_scale=True),
        "miner": Hardest(k=3),
        "regularizers": (L2(), VarianceOfVariances()),
        "side": "both",
        "own_negatives": 1,
        "gradient_accumulation_steps": 2,
        "max_grad_value": 1.0,
        "max_grad_norm": 1.0,
        "ema_decay": 0.9,
    },
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_the_trainer(device: Library, name: str, monkeypatch) -> None:
    """Between two log lines nothing is looked at; a line itself reads the loss and the norm."""
    monkeypatch.setattr("coreframe.loop.LOG_LINES", 3)
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((64, D)).astype(np.float32)
    wrong = np.stack([np.arange(64), np.roll(np.arange(64), 5)], axis=1)
    pairs = Pairs(queries, np.roll(queries, 1, axis=1), irrelevant=wrong, weights=np.arange(64) + 1)
    given = {
        "epochs": 1, "batch_size": 4, "metric": "ndcg@10", "seed": 0,
        "optimizer": AdamW(learning_rate=WarmupCosine(peak=1e-2)),
    }  # fmt: skip
    setup = Setup(**given | STEPS[name])
    with looks() as found:
        marks = Marks(found)
        Trainer(setup, pairs, None, Backend(device), [marks]).run()
    steps = 16 // setup.gradient_accumulation_steps
    assert len(marks.at) >= 3
    assert steps / len(marks.at) > 1.5  # there are steps without a line
    read = [after - before for before, after in zip(marks.at, marks.at[1:], strict=False)]
    assert read == [2] * len(read), found[marks.at[0] : marks.at[-1]]
