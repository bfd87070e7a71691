"""Losses in torch's graph: gradients beside autograd's, dtypes, modules, miners, schedules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe import Batch, Loss, LossResult, Masked, Progress, RowLoss, SameLabel, build
from coreframe.errors import ArgumentError, ArgumentTypeError, MixedArrays, UnknownName
from coreframe.registry import registry

torch = pytest.importorskip("torch")
F = torch.nn.functional

from coreframe.interop.torch import LossModule, as_array, as_tensor, torch_loss  # noqa: E402

LIBRARIES = ("numpy", "torch")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads that wait for one another would cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))
    return drawn.to(dtype).requires_grad_()


def loss(name: str = "info_nce", **fields: Any) -> Loss:
    return build("losses", name, **fields)


LABELS = torch.tensor([0, 1, 0, 2, 1, 0])
A, P, S, N = rows(6, 4), rows(6, 4, seed=1), rows(3, 4, seed=2), rows(6, 2, 4, seed=3)

# Every loss of ours, with what it is called on: each tensor gets a gradient.
CALLS: dict[str, list[tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {
    "contrastive": [(loss("contrastive"), (A,), {"labels": LABELS})],
    "cosine_embedding": [
        (loss("cosine_embedding"), (A, P), {"labels": torch.tensor([1, -1, 1, -1, -1, 1])})
    ],
    "cross_entropy": [(loss("cross_entropy", label_smoothing=0.1), (A,), {"labels": LABELS})],
    "info_nce": [
        (loss(temperature=0.5), (A, P), {"weights": torch.arange(1.0, 7.0)}),
        (loss(temperature=0.5), (A, P, S), {"ids": LABELS}),
        (loss(temperature=0.5, symmetric=True), (A, P, N), {}),
        (loss(temperature=0.5, reduction="none"), (A, P, N), {}),
        (loss(temperature=0.5, similarity="dot", reduction="sum"), (A,), {"labels": LABELS}),
    ],
    "local_contrastive": [(loss("local_contrastive"), (A, P, N), {})],
    "mined": [
        (
            loss("mined", miner=build("miners", "hardest", k=2), loss=loss(temperature=0.5)),
            (A, P),
            {},
        )
    ],
    "mse": [(loss("mse"), (A, P), {})],
    "nca": [(loss("nca"), (A,), {"labels": LABELS})],
    "sup_con": [(loss("sup_con", temperature=0.5), (A,), {"labels": LABELS})],
    "symmetric": [(loss("symmetric", loss=loss(temperature=0.5)), (A, P, S), {})],
    "triplet": [
        (loss("triplet", mode="all"), (A,), {"labels": LABELS}),
        (loss("triplet"), (A, P, rows(6, 4, seed=4)), {}),
    ],
    "weighted_sum": [
        (
            loss("weighted_sum", losses={"a": loss(), "b": loss("triplet")}, weights={"b": 0.5}),
            (A, P),
            {},
        )
    ],
}
CASES = [
    pytest.param(*case, id=f"{name}-{i}") for name, cs in CALLS.items() for i, case in enumerate(cs)
]


def test_every_loss_of_ours_is_called() -> None:
    assert set(CALLS) == {e.name for e in registry().entries("losses") if e.plugin.built_in}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("given_loss", "tensors", "others"), CASES)
def test_gradcheck(given_loss: Loss, tensors: Any, others: Any, library: str) -> None:
    def value(*given: Any) -> Any:
        return torch_loss(given_loss, *given, **others, library=library)

    assert torch.autograd.gradcheck(value, tensors, fast_mode=True)


@pytest.mark.parametrize(("given_loss", "tensors", "others"), CASES)
def test_the_value_is_the_losss_own(given_loss: Loss, tensors: Any, others: Any) -> None:
    arrays = [as_array(x) for x in tensors]
    others = {k: as_array(x) if isinstance(x, torch.Tensor) else x for k, x in others.items()}
    own = given_loss(*arrays, **others).value
    np.testing.assert_array_equal(torch_loss(given_loss, *tensors, **others).detach(), own)


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 3), st.integers(0, 99))
def test_a_loss_stands_in_a_graph(n: int, d: int, s: int, seed: int) -> None:
    """An encoder before it and a number behind it: all gradients are autograd's own."""
    x, y, shared = rows(n, 5, seed=seed), rows(n, d, seed=seed + 1), rows(s, d, seed=seed + 2)
    encoder = rows(5, d, seed=seed + 3)

    def formula(a: Any, p: Any, more: Any) -> Any:
        u, v = F.normalize(a, dim=1), F.normalize(torch.cat([p, more]), dim=1)
        return F.cross_entropy(u @ v.T / 0.5, torch.arange(n))

    def ours(a: Any, p: Any, more: Any) -> Any:
        return torch_loss(loss(temperature=0.5), a, p, more if s else None)

    tensors = (x, y, encoder, *((shared,) if s else ()))
    want, got = (
        torch.autograd.grad(3 * f(x @ encoder, y, shared) ** 2, tensors) for f in (formula, ours)
    )
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b)


# What is called, and how often -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recorded(Loss):
    """InfoNCE that writes down what it was asked for."""

    asked: list[Any] = field(default_factory=list)
    reduction: str = "mean"

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        self.asked.append((wrt, batch))
        return loss(reduction=self.reduction).value_and_grad(batch, params, wrt=wrt)


def test_the_loss_is_called_once_and_for_what_needs_gradients() -> None:
    recorded = Recorded()
    x, y = rows(4, 3), rows(4, 3, seed=1)
    torch_loss(recorded, x, y.detach()).backward()
    torch_loss(recorded, x.detach(), y).backward()
    torch_loss(recorded, x, y).backward()
    with torch.no_grad():
        assert not torch_loss(recorded, x, y).requires_grad
    assert not torch_loss(recorded, x.detach(), y.detach()).requires_grad
    wanted = [("anchors",), ("references",), ("anchors", "references"), (), ()]
    assert [wrt for wrt, _ in recorded.asked] == wanted
    assert x.grad is not None
    assert y.grad is not None


def test_the_memory_of_tensors_is_shared_with_numpy() -> None:
    recorded, x = Recorded(), rows(4, 3)
    torch_loss(recorded, x, x)
    assert isinstance(recorded.asked[0][1].anchors, np.ndarray)
    assert np.shares_memory(recorded.asked[0][1].anchors, x.detach().numpy())
    torch_loss(recorded, x, x, library="torch")
    assert isinstance(recorded.asked[1][1].anchors, torch.Tensor)
    assert not recorded.asked[1][1].anchors.requires_grad


def test_the_graph_holds_one_array_an_input() -> None:
    x, held = rows(512, 8, dtype=torch.float32), []

    def pack(t: Any) -> Any:
        held.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        torch_loss("info_nce", x, x.detach())
    assert held == [512 * 8]


def test_gradients_accumulate_and_can_be_asked_for_twice() -> None:
    x, y = rows(8, 3), rows(8, 3, seed=1)
    value = torch_loss("info_nce", x, y)
    value.backward(retain_graph=True)
    once = x.grad.clone()
    value.backward()
    torch.testing.assert_close(x.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()
    weight = rows(3, 3, seed=2)
    parts = [torch_loss("info_nce", x[i : i + 4] @ weight, y[i : i + 4]) / 2 for i in (0, 4)]
    (both,) = torch.autograd.grad(sum(parts), weight)
    for part in parts_again(x, y, weight):
        part.backward()
    torch.testing.assert_close(weight.grad, both)


def parts_again(x: Any, y: Any, weight: Any) -> Any:
    for i in (0, 4):
        yield torch_loss("info_nce", x[i : i + 4] @ weight, y[i : i + 4]) / 2


def test_a_second_derivative_is_an_error() -> None:
    x = rows(4, 3)
    for power in (1, 2):
        value = torch_loss("info_nce", x, x.detach()) ** power
        (g,) = torch.autograd.grad(value, x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiable once"):
            (x.sum() + g.sum()).backward()  # a gradient penalty


# Values that are one a row ---------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("incoming", [[1.0, 1, 1, 1], [1.0, -2, 0, 3], [-1.0, -1, -2, -1]])
def test_each_row_has_its_own_incoming_gradient(incoming: list[float], library: str) -> None:
    x, y = rows(4, 3), rows(4, 3, seed=1)
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64)

    def formula() -> Any:
        similarities = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
        return weights * F.cross_entropy(similarities / 0.07, torch.arange(4), reduction="none")

    none = loss(reduction="none")
    ours = torch_loss(none, x, y, weights=weights, library=library)
    torch.testing.assert_close(ours, formula())
    v = torch.tensor(incoming, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(formula(), (x, y), v), torch.autograd.grad(ours, (x, y), v), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_mean_over_rows_needs_no_second_call() -> None:
    recorded = Recorded(reduction="none")
    x = rows(4, 3)
    torch_loss(recorded, x, x.detach()).mean().backward()
    assert len(recorded.asked) == 1
    (torch_loss(recorded, x, x.detach()) * torch.arange(4.0)).sum().backward()
    assert len(recorded.asked) == 3


def test_values_of_several_negatives_a_row_take_one_factor_a_row() -> None:
    none = loss("local_contrastive", over_negatives="none", reduction="none")
    x, p, n = rows(5, 3), rows(5, 3, seed=1), rows(5, 2, 3, seed=2)
    v = torch.tensor([1.0, -2, 0, 3, 1], dtype=torch.float64)[:, None]
    distance = torch.linalg.vector_norm
    apart = distance(x - p, dim=1)[:, None] - distance(x[:, None] - n, dim=2) + 1
    want = torch.autograd.grad((F.relu(apart) * v).sum(), (x, p, n))
    got = torch.autograd.grad((torch_loss(none, x, p, n) * v).sum(), (x, p, n))
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b)
    uneven = torch.arange(10.0, dtype=torch.float64).reshape(5, 2)
    with pytest.raises(ArgumentError, match="differs inside of a row"):
        (torch_loss(none, x, p, n) * uneven).sum().backward()


def test_a_loss_that_ignores_weights_has_no_gradient_by_rows() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Weightless(Loss):
        def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> Any:
            a = batch.anchors
            return LossResult((a * a).sum(1), dict.fromkeys(wrt or (), 2 * a))

    x = rows(3, 2)
    (g,) = torch.autograd.grad(torch_loss(Weightless(), x, labels=[0, 0, 1]).sum(), x)
    torch.testing.assert_close(g, 2 * x.detach())
    with pytest.raises(ArgumentError, match="Weightless does not take weights as factors"):
        torch_loss(Weightless(), x, labels=[0, 0, 1])[0].backward()


# Precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_tensors_are_computed_in_float32(dtype: Any, library: str) -> None:
    x, y = rows(16, 8, dtype=dtype), rows(16, 8, seed=1, dtype=dtype)
    wide = x.detach().float().requires_grad_()
    value = torch_loss("info_nce", x, y.detach(), library=library)
    want = torch_loss("info_nce", wide, y.detach().float(), library=library)
    assert value.dtype == torch.float32
    assert torch.equal(value, want)
    value.backward()
    want.backward()
    assert x.grad.dtype == dtype
    assert torch.equal(x.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_reach_the_loss(dtype: Any, library: str) -> None:
    torch.manual_seed(0)
    encoder, x = torch.nn.Linear(8, 8), rows(16, 8, dtype=torch.float32).detach()
    module = LossModule(loss(learnable_scale=True), library=library)
    with torch.autocast("cpu", dtype=dtype):
        narrow = encoder(x)
        assert narrow.dtype == dtype
        value = module(narrow, x)  # one narrow, one wide, as it comes
    exact = module(narrow.detach().float(), x)
    assert value.dtype == torch.float32
    assert torch.equal(value, exact)
    with torch.autocast("cpu", dtype=dtype):  # as in a loop that calls backward inside
        value.backward()
    assert encoder.weight.grad.dtype == torch.float32
    assert module.log_scale.grad.dtype == torch.float32
    assert encoder.weight.grad.abs().sum() > 0


def test_a_grad_scaler_keeps_small_gradients_alive() -> None:
    """Pairs far apart have gradients of 1e-8, below what float16 holds: scaled, then narrowed."""
    x = torch.eye(4, dtype=torch.float16, requires_grad=True)
    sharp = loss(temperature=0.05)
    torch_loss(sharp, x, x.detach()).backward()
    assert not x.grad.any()
    x.grad = None
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(torch_loss(sharp, x, x.detach())).backward()
    wide = torch.eye(4, requires_grad=True)
    torch_loss(sharp, wide, wide.detach()).backward()
    assert wide.grad.any()
    torch.testing.assert_close(x.grad.float() / 2**16, wide.grad, rtol=1e-2, atol=1e-12)


def test_a_grad_scaler_makes_the_plain_step() -> None:
    weights = []
    for scale in (1.0, 2.0**10):
        torch.manual_seed(0)
        encoder, x = torch.nn.Linear(8, 8), rows(16, 8, dtype=torch.float32).detach()
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = torch_loss("info_nce", encoder(x), x)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append(encoder.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-4)
    assert not torch.equal(weights[0], torch.zeros(8, 8))


# torch.compile ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_code_breaks_its_graph_and_is_right() -> None:
    module = LossModule(loss(learnable_scale=True)).double()
    x, y = rows(5, 3), rows(5, 3, seed=1)

    def step(a: Any, b: Any) -> Any:
        return 3 * module(torch.tanh(a), b)

    tensors = (x, y, *module.parameters())
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(step, backend=backend)
    value = compiled(x, y)
    assert len(graphs) >= 2  # what stands before the loss, and behind it
    assert float(value.detach()) == float(step(x, y).detach())
    for a, b in zip(
        torch.autograd.grad(value, tensors), torch.autograd.grad(step(x, y), tensors), strict=True
    ):
        torch.testing.assert_close(a, b)


# Modules ---------------------------------------------------------------------------------------


def test_parameters_of_a_loss_are_those_of_the_module() -> None:
    both = loss(
        "weighted_sum", losses={"a": loss(learnable_scale=True), "b": loss(learnable_scale=True)}
    )
    module = LossModule(both).double()
    names = ["a.bias", "a.log_scale", "b.bias", "b.log_scale"]
    assert sorted(name for name, _ in module.named_parameters()) == names
    assert sorted(module.state_dict()) == names
    x, y = rows(5, 3), rows(5, 3, seed=1)
    parameters = tuple(dict(module.named_parameters()))

    def value(*given: Any) -> Any:
        own = dict(zip(parameters, given[2:], strict=True))
        return torch.func.functional_call(module, own, given[:2])

    assert torch.autograd.gradcheck(value, (x, y, *module.parameters()), fast_mode=True)


def test_parameters_are_trained_by_an_optimizer_of_torch() -> None:
    module = LossModule(loss(learnable_scale=True))
    x = rows(16, 8, dtype=torch.float32).detach()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = module(x, x + 0.5)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < values[0]
    assert values == sorted(values, reverse=True)
    again = LossModule(loss(learnable_scale=True))
    again.load_state_dict(module.state_dict())
    torch.testing.assert_close(again(x, x + 0.5), module(x, x + 0.5))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(other(x, x + 0.5), module(x, x + 0.5))


@dataclass(frozen=True, kw_only=True)
class Proxies(Loss):
    """The distance to the proxy of the class, proxies of length at most one."""

    def init(self, rng: Any, dim: int) -> Any:
        return {"W": rng.standard_normal((3, dim)).astype(np.float32)}

    def project(self, params: Any) -> Any:
        length = np.linalg.norm(params["W"], axis=1, keepdims=True)
        return {"W": params["W"] / np.maximum(length, 1)}

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        apart = batch.anchors - params["W"][batch.labels]
        slope = np.zeros_like(params["W"])
        np.add.at(slope, batch.labels, -2 * apart)
        return LossResult((apart * apart).sum(), {"anchors": 2 * apart}, {"W": slope})


def test_a_loss_moves_its_parameters_back_after_each_step() -> None:
    with pytest.raises(ArgumentError, match=r"'W' of Proxies depends on the width.*dim="):
        LossModule(Proxies())
    module = LossModule(Proxies(), dim=4, seed=3)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    optimizer.register_step_post_hook(lambda *_: module.project())
    own = module.W
    module(rows(6, 4, dtype=torch.float32), labels=LABELS).backward()
    optimizer.step()
    assert module.W is own
    assert (own.norm(dim=1) <= 1 + 1e-6).all()
    assert (own.norm(dim=1) > 0.99).any()


def test_parameters_on_another_device_stay_there() -> None:
    module = LossModule(loss(learnable_scale=True)).to("meta")
    module.project()
    x = torch.empty(4, 3, device="meta")
    module(x, x).backward()
    assert module.log_scale.grad.device.type == "meta"


def test_parameters_start_where_fit_starts_them() -> None:
    from coreframe.random import stream

    want = Proxies().init(stream(3, "loss"), 4)["W"]
    np.testing.assert_array_equal(LossModule(Proxies(), dim=4, seed=3).W.detach(), want)


def test_a_name_that_a_module_has_already_is_named() -> None:
    taken = loss("weighted_sum", losses={"loss": loss(learnable_scale=True)})
    with pytest.raises(ArgumentError, match=r"'loss\.log_scale' cannot be one of a torch module"):
        LossModule(taken)


def test_a_module_takes_registered_names_and_shows_what_it_is() -> None:
    assert "InfoNCE(" in repr(LossModule("info_nce", miner="hardest"))
    with pytest.raises(UnknownName, match="info_nce"):
        LossModule("info_nec")
    with pytest.raises(ArgumentTypeError, match=r"losses takes a name or a coreframe\.Loss"):
        LossModule(torch.nn.MSELoss())


# Miners and schedules --------------------------------------------------------------------------


def test_a_miner_narrows_the_pairs_of_a_module() -> None:
    x, y = rows(8, 3), rows(8, 3, seed=1)
    miner = build("miners", "hardest", k=2)
    mined = loss("mined", miner=miner, loss=loss())
    module = LossModule("info_nce", miner=miner)
    assert float(module(x, y).detach()) == float(torch_loss(mined, x, y).detach())
    assert float(module(x, y).detach()) != float(torch_loss("info_nce", x, y).detach())
    assert torch.autograd.gradcheck(module, (x, y), fast_mode=True)


def test_a_miners_draws_are_a_function_of_seed_and_step() -> None:
    x, y = rows(12, 3), rows(12, 3, seed=1)

    def value(module: LossModule, **where: Any) -> float:
        return float(module(x, y, **where).detach())

    one, other = (LossModule("info_nce", miner="random", seed=seed) for seed in (0, 1))
    steps = [value(one, progress=Progress(step=step)) for step in range(3)]
    assert len(set(steps)) == 3
    assert steps == [value(one, progress=Progress(step=step)) for step in range(3)]
    assert value(one) == steps[0] == value(one)
    assert value(other) != value(one)
    rng = np.random.default_rng(0)
    assert value(one, rng=rng) != value(one, rng=rng)
    assert value(one, rng=np.random.default_rng(0)) == value(one, rng=np.random.default_rng(0))


def test_a_schedule_is_followed_and_nothing_is_counted() -> None:
    falling = build("schedulers", "linear", start=1.0, end=0.1)
    module = LossModule(loss(temperature=falling, learnable_scale=True)).double()
    x, y = rows(6, 3), rows(6, 3, seed=1)
    half = Progress(step=5, steps=10)
    own = LossModule(loss(temperature=0.55, learnable_scale=True)).double()
    torch.testing.assert_close(module(x, y, progress=half), own(x, y))
    with pytest.raises(ArgumentTypeError, match=r"progress=coreframe\.Progress"):
        module(x, y)
    module.progress = half
    torch.testing.assert_close(module(x, y), own(x, y))
    start = module(x, y, progress=Progress(step=0, steps=10))
    torch.testing.assert_close(
        start, LossModule(loss(temperature=1.0, learnable_scale=True)).double()(x, y)
    )
    at = module.at(half)
    assert at.log_scale is module.log_scale
    assert at.loss.temperature == pytest.approx(0.55)
    assert module.loss.temperature is falling
    assert own.at(None) is own


def test_a_miner_follows_a_schedule_too() -> None:
    growing = build("schedulers", "linear", start=1, end=5)
    module = LossModule("info_nce", miner=build("miners", "hardest", k=growing))
    x, y = rows(8, 3), rows(8, 3, seed=1)
    for step, k in ((0, 1), (4, 5)):
        want = LossModule("info_nce", miner=build("miners", "hardest", k=k))(x, y)
        torch.testing.assert_close(module(x, y, progress=Progress(step=step, steps=4)), want)


# In programs of others --------------------------------------------------------------------------


def test_threads_share_a_module_and_each_has_its_graph() -> None:
    module = LossModule(loss(), miner="semi_hard")

    def gradient(seed: int) -> Any:
        x, y = rows(64, 8, seed=seed), rows(64, 8, seed=seed + 100)
        return torch.autograd.grad(module(x, y), (x, y))

    want = [gradient(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(gradient, range(8)))
    for one, other in zip(want, got, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def in_worker(seed: int) -> tuple[float, Any]:
    x = rows(64, 8, seed=seed)
    value = torch_loss("info_nce", x, rows(64, 8, seed=seed + 100).detach(), miner="hardest")
    (g,) = torch.autograd.grad(value, x)
    return value.detach(), g


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where another test loaded it
def test_workers_of_a_data_loader_compute_the_same() -> None:
    """They are forked after our threads have run here."""
    want = [in_worker(seed) for seed in range(4)]
    loader = torch.utils.data.DataLoader(
        range(4), batch_size=None, num_workers=2, collate_fn=in_worker,
        multiprocessing_context="fork",
    )  # fmt: skip
    for (value, g), (other, h) in zip(want, loader, strict=True):
        assert torch.equal(value, other)
        assert torch.equal(g, h)


# Batches ---------------------------------------------------------------------------------------


def same_class(r: slice, c: slice, xp: Any, device: Any) -> Any:
    own, others = LABELS[r, None], LABELS[None, c]
    return xp.asarray((own == others) & ~torch.eye(6).bool()[r, c]), xp.asarray(own != others)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("make", "tensors"),
    [
        (lambda a: Batch.edges(a, [[0, 1], [2, 3], [1, 4]], [1, 0, 1]), (A,)),
        (lambda a, p: Batch.labelled_pairs(a, p, [1, 0, 1, 0, 0, 1]), (A, P)),
        (
            lambda a, p: Batch(
                anchors=a, references=p, relation=SameLabel(LABELS, torch.tensor([2, 0, 1]))
            ),
            (A, S),
        ),
        (lambda a: Batch(anchors=a, relation=Masked(same_class, 6, 6)), (A,)),
    ],
    ids=["edges", "labelled pairs", "two sets of labels", "masks"],
)
def test_any_batch_is_made_of_the_tensors(
    make: Callable[..., Batch], tensors: Any, library: str
) -> None:
    def value(*given: Any) -> Any:
        return torch_loss("contrastive", *given, batch=make, library=library)

    assert torch.autograd.gradcheck(value, tensors, fast_mode=True)
    own = loss("contrastive").value_and_grad(make(*[x.detach() for x in tensors])).value
    torch.testing.assert_close(value(*tensors), own)


def test_a_batch_that_lost_an_input_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="the batch has no references, so the positives"):
        torch_loss("info_nce", A, P, batch=lambda a, p: Batch.labelled(a, LABELS))
    with pytest.raises(ArgumentError, match="the anchors of the batch do not hold the anchors"):
        torch_loss("info_nce", A, P, batch=lambda a, p: Batch.pairs(a[:3], p[:3]))


# Errors ----------------------------------------------------------------------------------------


def test_what_cannot_be_is_said() -> None:
    batch = Batch.pairs(A.detach(), P.detach())
    with pytest.raises(ArgumentTypeError, match=r"cut off from the graph.*batch=a function"):
        torch_loss("info_nce", batch)
    with pytest.raises(ArgumentTypeError, match="positives must be a tensor, got ndarray"):
        torch_loss("info_nce", A, np.zeros((6, 4)))
    with pytest.raises(ArgumentError, match=r"weights\.detach"):
        torch_loss("info_nce", A, P, weights=rows(6))
    with pytest.raises(MixedArrays, match="positives: meta"):
        torch_loss("info_nce", A, P.to("meta"))
    with pytest.raises(ArgumentTypeError, match=r"labels must be integers|float"):
        torch_loss("sup_con", A, labels=LABELS.double())


def test_a_numpy_loss_on_another_device_is_an_error_and_no_copy() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OnNumPy(RowLoss):
        def rows(self, arrays: Any, batch: Batch) -> Any:
            a = np.asarray(arrays["anchors"])
            return (a * a).sum(axis=1), {"anchors": 2 * a}

    x = rows(4, 3)
    torch.testing.assert_close(torch_loss(OnNumPy(), x, labels=[0] * 4), (x * x).sum(1).mean())
    far = torch.empty(4, 3, device="meta", requires_grad=True)
    with pytest.raises(ArgumentError, match=r"OnNumPy computes with NumPy alone.*on meta.*\.cpu"):
        torch_loss(OnNumPy(), far, labels=[0] * 4)
    with pytest.raises(ArgumentError, match=r"on meta; move it with \.cpu"):
        torch_loss("info_nce", far, far, library="numpy")
    value = torch_loss("info_nce", far, far.detach())  # ours computes where the tensors are
    value.backward()
    assert (value.device.type, far.grad.device.type) == ("meta", "meta")


# Arrays ----------------------------------------------------------------------------------------


def test_arrays_and_tensors_share_their_memory() -> None:
    x = np.arange(6.0).reshape(2, 3)
    t = as_tensor(x)
    t[0, 0] = 7
    assert x[0, 0] == 7
    assert np.shares_memory(as_array(t), x)
    assert as_tensor(t) is t
    assert as_array(t.requires_grad_(), "torch").requires_grad is False
    fixed = np.broadcast_to(np.float32(2), (3,))
    assert as_tensor(fixed).tolist() == [2, 2, 2]
    assert as_tensor(x[::-1]).tolist() == x[::-1].tolist()
    assert as_tensor(np.float64(3)).shape == ()
    with pytest.raises(ArgumentTypeError, match="x must be an array, got list"):
        as_tensor([1.0])
    with pytest.raises(ArgumentTypeError, match="x must be a tensor, got ndarray"):
        as_array(x)
    with pytest.raises(ArgumentTypeError, match="no bfloat16"):
        as_array(torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(ArgumentError, match="library must be numpy"):
        as_array(t, "tensorflow")


def test_arrays_of_another_library_come_by_dlpack() -> None:
    strict = pytest.importorskip("array_api_strict")
    x = strict.asarray([1.0, 2.0])
    assert as_tensor(x).tolist() == [1.0, 2.0]


# Transformations of functions ---------------------------------------------------------------


def test_no_second_derivative_is_0_in_silence() -> None:
    """Where a derivative by the input alone is asked for, a graph that lost it would give 0."""
    x, y = rows(4, 3), rows(4, 3, seed=1).detach()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.functional.hessian(lambda a: torch_loss("info_nce", a, y), x.detach())
    (slope,) = torch.autograd.grad(torch_loss("info_nce", x, y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(slope.square().sum(), x, allow_unused=True)


def test_transformations_of_torch_func_are_named() -> None:
    x, y = rows(4, 3).detach(), rows(4, 3, seed=1).detach()
    for transformed in (torch.func.grad, torch.func.vmap, torch.func.jacrev):
        with pytest.raises(ArgumentError, match=r"torch\.func"):
            transformed(lambda a: torch_loss("info_nce", a, y))(x)
