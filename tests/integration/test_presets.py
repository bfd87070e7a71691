"""Presets beside the classes that they name: value and gradient, and those classes' defaults.

A test runs where its library is, with ``pytest -m integration``; torch's run in every environment
that has torch.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from coreframe import Loss, LossResult, Scheduler
from coreframe.batch import Batch
from coreframe.component import Known, presets
from coreframe_losses.contrastive import Contrastive
from coreframe_losses.cosine_embedding import CosineEmbedding
from coreframe_losses.cross_entropy import CrossEntropy
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.mse import MSE
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet
from coreframe_miners.distance_weighted import DistanceWeighted
from coreframe_miners.hardest import Hardest
from coreframe_miners.semi_hard import SemiHard
from coreframe_optimizers.adam import Adam
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD
from coreframe_schedulers.cosine import Cosine
from coreframe_schedulers.cosine_warm_restarts import CosineWarmRestarts
from coreframe_schedulers.exponential import Exponential
from coreframe_schedulers.inverse_sqrt import InverseSqrt
from coreframe_schedulers.linear import Linear
from coreframe_schedulers.one_cycle import OneCycle
from coreframe_schedulers.polynomial import Polynomial
from coreframe_schedulers.step import Step
from coreframe_schedulers.warmup_cosine import WarmupCosine
from coreframe_schedulers.warmup_stable_decay import WarmupStableDecay

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
os.environ.setdefault("KERAS_BACKEND", "torch")

N, D = 12, 6
BALANCED = np.repeat(np.arange(4), 3)
UNEVEN = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])
ALL = [known for known in presets() if known.preset.version]


def library(known: Known) -> str:
    return known.preset.equals.partition(".")[0]


def of_library(path: str) -> Any:
    """Return the class or function of an import path, or skip where its library is not."""
    path = path.partition("(")[0]
    pytest.importorskip(path.partition(".")[0], exc_type=ImportError)
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{path} leads nowhere")


def theirs(component: type, name: str) -> Any:
    return of_library(component.presets[name].equals)  # type: ignore[attr-defined]


# The defaults that were read are still the defaults --------------------------------------------


@pytest.mark.parametrize("known", ALL, ids=[f"{k.component}/{k.name}" for k in ALL])
def test_the_defaults_are_those_that_were_read(known: Known) -> None:
    given = inspect.signature(of_library(known.preset.equals)).parameters
    for name, value in known.preset.arguments.items():
        default = given[name].default
        assert getattr(default, "__name__", default) == value, name


# Losses ----------------------------------------------------------------------------------------


def compare(
    result: LossResult,
    arrays: Mapping[str, Any],
    value: Callable[..., Any],
    weight: float = 1.0,
    tolerance: float = 1e-9,
) -> None:
    """Compare value and gradients with those of a function of the same arrays, by autograd."""
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in arrays.items()}
    want = value(*leaves.values())
    want.backward()
    assert float(want) > 0.01, "nothing is compared"
    assert weight * float(result.value) == pytest.approx(float(want), rel=tolerance)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(
            weight * result.grads[name], leaf.grad.numpy(), rtol=tolerance, atol=tolerance
        )


@pytest.fixture
def pairs(rng: np.random.Generator) -> dict[str, Any]:
    a = rng.normal(size=(N, D))
    return {"anchors": a, "references": a + rng.normal(size=(N, D))}


@pytest.fixture
def x(rng: np.random.Generator) -> dict[str, Any]:
    return {"anchors": rng.normal(size=(N, D))}


def st_value(component: type, name: str, labels: Any = None) -> Callable[..., Any]:
    loss = theirs(component, name)(model=None)
    labels = torch.zeros(N) if labels is None else torch.tensor(labels)
    return lambda *columns: loss.compute_loss_from_embeddings(list(columns), labels)


def test_info_nce_is_multiple_negatives_ranking(pairs: dict[str, Any], rng: Any) -> None:
    value, loss = (
        st_value(InfoNCE, "sentence-transformers"),
        InfoNCE.preset("sentence-transformers"),
    )
    compare(loss(*pairs.values()), pairs, value)
    shared = rng.normal(size=(N, D))
    result = loss(*pairs.values(), shared)
    columns = {**pairs, "negatives": shared}
    grads = result.grads
    grads = {
        "anchors": grads["anchors"],
        "references": grads["references"][:N],
        "negatives": grads["references"][N:],
    }
    compare(LossResult(result.value, grads), columns, value)


def test_info_nce_is_nt_xent(x: dict[str, Any]) -> None:
    other = theirs(InfoNCE, "pytorch-metric-learning")()
    loss, labels = InfoNCE.preset("pytorch-metric-learning"), torch.tensor(BALANCED)
    compare(loss(x["anchors"], labels=BALANCED), x, lambda e: other(e, labels))


def test_info_nce_is_clip(pairs: dict[str, Any]) -> None:
    loss = theirs(InfoNCE, "open_clip")()
    start = inspect.signature(of_library("open_clip.model.CLIP")).parameters["init_logit_scale"]
    scale = float(np.exp(start.default))

    def value(image: Any, text: Any) -> Any:
        normal = torch.nn.functional.normalize
        return loss(normal(image), normal(text), scale)

    compare(InfoNCE.preset("open_clip")(*pairs.values()), pairs, value)


def test_sup_con_is_that_of_the_library(x: dict[str, Any]) -> None:
    other = theirs(SupCon, "pytorch-metric-learning")()
    labels = np.array([*UNEVEN[:-2], 3, 4])  # some rows are alone
    result = SupCon.preset("pytorch-metric-learning")(x["anchors"], labels=labels)
    compare(result, x, lambda e: other(e, torch.tensor(labels)))


@pytest.mark.parametrize("name", ["torch", "sentence-transformers"])
def test_triplets_row_by_row(name: str, pairs: dict[str, Any], rng: Any) -> None:
    triplets = {**pairs, "negatives": 1.2 * rng.normal(size=(N, D))}
    result = Triplet.preset(name)(*triplets.values())
    grads = {
        "anchors": result.grads["anchors"],
        "references": result.grads["references"],
        "negatives": result.grads["negatives"].reshape(N, D),
    }
    value = theirs(Triplet, "torch")() if name == "torch" else st_value(Triplet, name)
    compare(LossResult(result.value, grads), triplets, value, tolerance=1e-5)


@pytest.mark.parametrize(("form", "labels"), [("batch-hard", UNEVEN), ("semi-hard", BALANCED)])
def test_triplets_of_classes(form: str, labels: Any, x: dict[str, Any]) -> None:
    name = f"sentence-transformers-{form}"
    result = Triplet.preset(name)(x["anchors"], labels=labels)
    compare(result, x, st_value(Triplet, name, labels))


def test_contrastive_is_twice_the_other(pairs: dict[str, Any]) -> None:
    loss, labels = Contrastive.preset("sentence-transformers"), np.arange(N) % 2
    weight = Contrastive.presets["sentence-transformers"].weight
    value = st_value(Contrastive, "sentence-transformers", labels)
    compare(loss(*pairs.values(), labels=labels), pairs, value, weight=weight)


def test_contrastive_of_the_other_library_is_another(x: dict[str, Any]) -> None:
    """What docs/presets.md says has no preset, has none: its terms are not squared."""
    other = of_library("pytorch_metric_learning.losses.ContrastiveLoss")()
    unit = x["anchors"] / np.linalg.norm(x["anchors"], axis=1, keepdims=True)
    theirs_ = float(other(torch.tensor(unit), torch.tensor(BALANCED)))
    assert float(Contrastive()(unit, labels=BALANCED).value) != pytest.approx(theirs_, rel=0.01)


def test_cosine_embedding_is_torchs(pairs: dict[str, Any]) -> None:
    labels = np.where(np.arange(N) % 2, 1, -1)
    other = theirs(CosineEmbedding, "torch")()
    result = CosineEmbedding.preset("torch")(*pairs.values(), labels=labels)
    compare(result, pairs, lambda a, b: other(a, b, torch.tensor(labels)))


def test_cross_entropy_is_torchs(x: dict[str, Any]) -> None:
    labels, other = np.arange(N) % D, theirs(CrossEntropy, "torch")()
    result = CrossEntropy.preset("torch")(x["anchors"], labels=labels)
    compare(result, x, lambda z: other(z, torch.tensor(labels)))


def test_mse_is_torchs_and_sentence_transformers(pairs: dict[str, Any]) -> None:
    compare(MSE.preset("torch")(*pairs.values()), pairs, theirs(MSE, "torch")())


def test_mse_is_that_of_sentence_transformers(pairs: dict[str, Any]) -> None:
    kind = theirs(MSE, "sentence-transformers")
    loss: Loss = MSE.preset("sentence-transformers")
    teacher = torch.tensor(pairs["references"])

    class Student(torch.nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"sentence_embedding": features["x"]}

    def value(anchors: Any) -> Any:
        return kind(model=Student())([{"x": anchors}], teacher)

    compare(loss(*pairs.values()), {"anchors": pairs["anchors"]}, value)


# Miners ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch-metric-learning", "oml"])
def test_the_hardest_negative_of_each(name: str, x: dict[str, Any]) -> None:
    kind, e = theirs(Hardest, name), torch.tensor(x["anchors"])
    if name == "oml":
        anchors, _, negatives = kind().sample(e, torch.tensor(UNEVEN))[-3:]
        rows = x["anchors"].tolist()
        want = {i: rows.index(n.tolist()) for i, n in enumerate(negatives)}
        assert len(anchors) == N
    else:
        anchors, _, negatives = kind()(e, torch.tensor(UNEVEN))
        want = dict(zip(anchors.tolist(), negatives.tolist(), strict=True))
    batch = Batch.labelled(x["anchors"], UNEVEN)
    found = Hardest.preset(name).choose(batch, 1, rng=None)
    assert dict(enumerate(found[:, 0].tolist())) == want


def test_semi_hard_negatives(rng: np.random.Generator) -> None:
    kind = theirs(SemiHard, "pytorch-metric-learning")
    e = rng.normal(size=(60, 3))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    labels = np.repeat(np.arange(30), 2)  # one positive an anchor
    anchors, _, negatives = kind(type_of_triplets="semihard")(torch.tensor(e), torch.tensor(labels))
    want = set(zip(anchors.tolist(), negatives.tolist(), strict=True))
    assert len(want) > 30
    miner = SemiHard.preset("pytorch-metric-learning", k=60)
    found = miner.choose(Batch.labelled(e, labels), 60, rng=None)
    assert {(i, int(j)) for i, row in enumerate(found) for j in row if j >= 0} == want


def test_distance_weights(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = theirs(DistanceWeighted, "pytorch-metric-learning")
    e = rng.normal(size=(N, 16))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    seen: dict[str, Any] = {}

    def keep(*labels: Any, weights: Any, **others: Any) -> Any:
        seen["weights"] = weights.numpy()
        return torch.zeros(0), torch.zeros(0), torch.zeros(0)

    module = importlib.import_module("pytorch_metric_learning.utils.loss_and_miner_utils")
    monkeypatch.setattr(module, "get_random_triplet_indices", keep)
    kind()(torch.tensor(e), torch.arange(N))
    miner = DistanceWeighted.preset("pytorch-metric-learning")
    weights = np.exp(miner.log_weights(e @ e.T, 16))
    weights[e @ e.T <= 1 - miner.nonzero_loss_cutoff**2 / 2] = 0
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(
        weights / weights.sum(1, keepdims=True), seen["weights"], rtol=1e-6, atol=1e-12
    )


# Optimizers ------------------------------------------------------------------------------------

STEPS = 20


def steps_of(optimizer: Any, start: Any, gradients: Any) -> Any:
    params, state = {"W": start}, optimizer.init({"W": start})
    for g in gradients:
        params, state = optimizer.update(params, {"W": g}, state)
    return params["W"]


def by_torch(kind: Any, start: Any, gradients: Any, **arguments: Any) -> Any:
    w = torch.tensor(start, requires_grad=True)
    optimizer = kind([w], **arguments)
    for g in gradients:
        w.grad = torch.tensor(g)
        optimizer.step()
    return w.detach().numpy()


def by_optax(kind: Any, start: Any, gradients: Any) -> Any:
    import jax

    with jax.enable_x64(True):
        transform = kind(1e-3)
        w = jax.numpy.asarray(start)
        state = transform.init(w)
        for g in gradients:
            updates, state = transform.update(jax.numpy.asarray(g), state, w)
            w = w + updates
        return np.asarray(w)


def by_keras(kind: Any, start: Any, gradients: Any) -> Any:
    import keras

    w = keras.Variable(start, dtype="float64")
    optimizer = kind()
    optimizer.build([w])
    for g in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g, "float64")], [w])
    return keras.ops.convert_to_numpy(w)


def arguments_of_open_clip() -> dict[str, Any]:
    from open_clip_train.params import parse_args

    found = parse_args(["--model", "ViT-B-32"])
    return {
        "lr": found.lr,
        "betas": (found.beta1, found.beta2),
        "eps": found.eps,
        "weight_decay": found.wd,
    }


def arguments_of_transformers(kind: Any) -> dict[str, Any]:
    default = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    assert str(default["optim"]).startswith("adamw_torch")
    return {
        "lr": default["learning_rate"],
        "betas": (default["adam_beta1"], default["adam_beta2"]),
        "eps": default["adam_epsilon"],
        "weight_decay": default["weight_decay"],
    }


OPTIMIZERS = [(cls, name) for cls in (Adam, AdamW, SGD) for name in cls.presets if name != "paper"]


@pytest.mark.parametrize(
    ("cls", "name"), OPTIMIZERS, ids=[f"{c.__name__}-{n}" for c, n in OPTIMIZERS]
)
def test_twenty_steps_are_the_same(cls: Any, name: str, rng: np.random.Generator) -> None:
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(STEPS, 3, 4))
    kind, tolerance = theirs(cls, name), 1e-12
    if name == "torch":
        want = by_torch(kind, start, gradients)
    elif name == "optax":
        want = by_optax(kind, start, gradients)
    elif name == "keras":
        want, tolerance = by_keras(kind, start, gradients), 1e-6  # its rate is a float32
    elif name == "open_clip":
        want = by_torch(torch.optim.AdamW, start, gradients, **arguments_of_open_clip())
    else:
        want = by_torch(torch.optim.AdamW, start, gradients, **arguments_of_transformers(kind))
    # Where the other has no default for the learning rate, ours is the one given above.
    changes = {} if "learning_rate" in cls.presets[name].fields else {"learning_rate": 1e-3}
    got = steps_of(cls.preset(name, **changes), start, gradients)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# Schedulers ------------------------------------------------------------------------------------


def torch_values(make: Callable[[Any], Any], count: int) -> list[float]:
    """Return what a scheduler of torch's kind, also transformers', sets at a rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, found = make(optimizer), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def called(schedule: Any, count: int) -> list[float]:
    """Return the values of a schedule that is a function of the step: optax's, Keras's."""
    return [float(schedule(t)) for t in range(count)]


def open_clip_values(kind: Any, count: int, **arguments: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    adjust = kind(optimizer, **arguments)
    return [adjust(t) for t in range(count)]


T, W = 12, 4

SCHEDULES: dict[tuple[type[Scheduler], str], tuple[dict[str, Any], Callable[[Any], list[float]]]]
SCHEDULES = {
    (Cosine, "torch"): (
        {"start": 1.0, "steps": T},
        lambda kind: torch_values(lambda o: kind(o, T_max=T), T + 1),
    ),
    (Cosine, "optax"): ({"start": 1.0, "steps": T}, lambda kind: called(kind(1.0, T), 2 * T)),
    (Cosine, "keras"): ({"start": 1.0, "steps": T}, lambda kind: called(kind(1.0, T), 2 * T)),
    (CosineWarmRestarts, "torch"): (
        {"start": 1.0, "period": 4},
        lambda kind: torch_values(lambda o: kind(o, T_0=4), 3 * T),
    ),
    (CosineWarmRestarts, "keras"): (
        {"start": 1.0, "period": 4},
        lambda kind: called(kind(1.0, 4), 2 * T),
    ),
    (Exponential, "torch"): (
        {"start": 1.0, "decay": 0.7},
        lambda kind: torch_values(lambda o: kind(o, gamma=0.7), T),
    ),
    (InverseSqrt, "transformers"): (
        {"peak": 1.0, "warmup_steps": W},
        lambda kind: torch_values(lambda o: kind(o, W), 2 * T),
    ),
    (Linear, "transformers"): (
        {"start": 1.0, "steps": T},
        lambda kind: torch_values(lambda o: kind(o, 0, T), T + 2),
    ),
    (OneCycle, "optax"): ({"peak": 1.0, "steps": 20}, lambda kind: called(kind(20, 1.0), 24)),
    (Polynomial, "torch"): (
        {"start": 1.0},
        lambda kind: torch_values(lambda o: kind(o), T),
    ),
    (Polynomial, "transformers"): (
        {"start": 1.0, "steps": T},
        lambda kind: torch_values(lambda o: kind(o, 0, T), T + 2),
    ),
    (Polynomial, "keras"): ({"start": 1.0, "steps": T}, lambda kind: called(kind(1.0, T), T + 2)),
    (Step, "torch"): (
        {"start": 1.0, "every": 3},
        lambda kind: torch_values(lambda o: kind(o, step_size=3), T),
    ),
    (WarmupCosine, "transformers"): (
        {"peak": 1.0, "warmup_steps": W, "steps": T},
        lambda kind: torch_values(lambda o: kind(o, W, T), T + 1),
    ),
    (WarmupCosine, "optax"): (
        {"peak": 1.0, "warmup_steps": W, "steps": T},
        lambda kind: called(kind(0.0, 1.0, W, T), T + 3),
    ),
    (WarmupCosine, "open_clip"): (
        {"peak": 1.0, "steps": 10020},
        lambda kind: open_clip_values(kind, 10020, base_lr=1.0, warmup_length=10000, steps=10020),
    ),
    (WarmupStableDecay, "transformers"): (
        {"peak": 1.0, "warmup_steps": W, "decay_steps": 3, "steps": T},
        lambda kind: torch_values(lambda o: kind(o, W, 3, num_training_steps=T), T + 2),
    ),
}


@pytest.mark.parametrize(
    ("cls", "name"), SCHEDULES, ids=[f"{c.__name__}-{n}" for c, n in SCHEDULES]
)
def test_every_value_is_the_same(cls: Any, name: str) -> None:
    changes, values = SCHEDULES[cls, name]
    want = values(theirs(cls, name))
    got = [cls.preset(name, **changes).at(t) for t in range(len(want))]
    assert got == pytest.approx(want, rel=1e-6, abs=1e-6)  # optax and Keras have float32
    assert len(set(got)) > 2


def test_the_warm_up_of_open_clip_is_that_of_its_command_line() -> None:
    of_library("open_clip_train.params.parse_args")
    from open_clip_train.params import parse_args

    assert parse_args([]).warmup == WarmupCosine.presets["open_clip"].fields["warmup_steps"]


# Nothing is left out ---------------------------------------------------------------------------


def test_each_preset_is_compared() -> None:
    compared = {(cls.__name__, name) for cls, name in [*SCHEDULES, *OPTIMIZERS]}
    compared |= {
        ("InfoNCE", "sentence-transformers"), ("InfoNCE", "pytorch-metric-learning"),
        ("InfoNCE", "open_clip"), ("SupCon", "pytorch-metric-learning"), ("Triplet", "torch"),
        ("Triplet", "sentence-transformers"), ("Triplet", "sentence-transformers-batch-hard"),
        ("Triplet", "sentence-transformers-semi-hard"), ("Contrastive", "sentence-transformers"),
        ("CosineEmbedding", "torch"), ("CrossEntropy", "torch"), ("MSE", "torch"),
        ("MSE", "sentence-transformers"), ("Hardest", "pytorch-metric-learning"),
        ("Hardest", "oml"), ("SemiHard", "pytorch-metric-learning"),
        ("DistanceWeighted", "pytorch-metric-learning"),
    }  # fmt: skip
    from coreframe.registry import registry

    ours = {(registry().find(k.kind, k.component).load().__name__, k.name) for k in ALL}
    assert ours == compared
