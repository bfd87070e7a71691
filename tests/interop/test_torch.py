"""Cached steps, adapters, schedules and pytorch-metric-learning's calls, inside of torch."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coreframe
from coreframe import Adapter, Scheduler, blocks, build
from coreframe.artefact import Side, TrainedAdapter
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.random import stream
from coreframe.registry import registry

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402

from coreframe.interop.torch import (  # noqa: E402
    AdapterModule,
    LossModule,
    MetricLearningLoss,
    cached,
    cached_step,
    lr_lambda,
    save_adapters,
    torch_loss,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads that wait for one another would cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def test_importing_needs_torch_and_nothing_more() -> None:
    """Without torch an error names the extra; with it, no compiler, no JAX, no environment."""
    without = "import sys; sys.modules['torch'] = None; import coreframe.interop.torch"
    ran = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    assert "pip install 'coreframe-ml[torch]'" in ran.stderr
    code = (
        "import sys, logging, signal, torch\n"
        "before = set(sys.modules), signal.getsignal(signal.SIGINT), logging.root.handlers[:]\n"
        "import coreframe.interop.torch\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before[0]}\n"
        "assert not new & {'jax', 'cupy', 'sklearn', 'coreframe_losses'}, new\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert before[1:] == (signal.getsignal(signal.SIGINT), logging.root.handlers)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Cached steps ----------------------------------------------------------------------------------


def encoder(dropout: float = 0.5) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4), nn.Dropout(dropout)
    ).double()


def gradients(module: Any) -> list[Any]:
    found = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    return found


@pytest.mark.parametrize("size", [1, 3, 4, 10, 99])
def test_gradients_of_a_cached_step_are_those_of_the_plain_pass(size: int) -> None:
    """The same parts, dropout and all, with their activations kept; and the same draws after."""
    model, x, y = encoder(), rows(10, 6), rows(10, 6, seed=1)

    def plain(part: Any) -> Any:
        return torch.cat([model(part[i : i + size]) for i in range(0, 10, size)])

    torch.manual_seed(1)
    want = torch_loss("info_nce", plain(x), plain(y))
    after = torch.rand(1)
    want.backward()
    expected = gradients(model)
    torch.manual_seed(1)
    value = cached_step(model, "info_nce", {"anchors": x, "positives": y}, mini_batch_size=size)
    assert torch.equal(torch.rand(1), after)
    value.backward()
    assert torch.equal(value, want)
    for a, b in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_second_pass_does_not_disturb_the_random_state() -> None:
    model, x = encoder(), rows(10, 6)
    y = cached(model, x, mini_batch_size=3)
    before = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_activations_of_one_part_are_held() -> None:
    hidden: list[StorageWeakRef] = []
    most = []

    def watch(_: Any, __: Any, y: Any) -> None:
        hidden.append(StorageWeakRef(y.untyped_storage()))
        most.append(sum(not ref.expired() for ref in hidden))

    model, x = encoder(), rows(40, 6)
    model[1].register_forward_hook(watch)
    y = torch.cat([model(x[i : i + 4]) for i in range(0, 40, 4)])
    assert most[-1] == 10  # the plain pass holds all parts
    del y
    hidden.clear()
    most.clear()
    y = cached(model, x, mini_batch_size=4)
    assert max(most) <= 2  # the one before goes as the next comes
    assert sum(not ref.expired() for ref in hidden) == 0
    y.sum().backward()
    assert len(hidden) == 20
    assert max(most) <= 2


def test_autocast_is_as_it_was_in_the_second_pass() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    x, seen = rows(8, 6, dtype=torch.float32), []
    model[0].register_forward_hook(lambda _, __, y: seen.append(y.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = cached_step(model, "info_nce", {"anchors": x, "positives": x}, mini_batch_size=3)
    torch.amp.GradScaler("cpu").scale(value).backward()  # outside of autocast
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 12
    assert model[0].weight.grad.dtype == torch.float32


def test_two_towers_negatives_and_frozen_embeddings() -> None:
    one, other = encoder(0.0), encoder(0.0)
    x, y, n = rows(5, 6), rows(5, 4, seed=1), rows(10, 6, seed=2)
    inputs = {"anchors": x, "positives": y, "negatives": n}
    encoders = {"anchors": one, "negatives": other}
    module = LossModule("info_nce")
    value = cached_step(encoders, module, inputs, mini_batch_size=2, own_negatives=2)
    value.backward()
    got = gradients(one), gradients(other)
    want = torch_loss("info_nce", one(x), y, other(n).reshape(5, 2, 4))
    want.backward()
    for a, b in zip(got, (gradients(one), gradients(other)), strict=True):
        torch.testing.assert_close(a, b)


def test_tokens_texts_and_labels_go_by_parts() -> None:
    table = nn.Embedding(9, 4).double()

    def of_tokens(part: Any) -> Any:
        return (table(part["input_ids"]) * part["attention_mask"][..., None]).sum(1)

    def of_texts(part: Any) -> Any:
        return torch.stack(
            [table(torch.tensor([len(word) for word in text])).sum(0) for text in part]
        )

    labels = torch.tensor([0, 1, 0, 1, 0])
    tokens = {
        "input_ids": torch.arange(15).reshape(5, 3) % 9,
        "attention_mask": torch.ones(5, 3),
    }
    texts = [["a", "bc"], ["abcd"], ["abc", "a"], ["ab"], ["abcde"]]
    for encode, rows_of in ((of_tokens, tokens), (of_texts, texts)):
        want = torch.autograd.grad(
            torch_loss("sup_con", encode(rows_of), labels=labels), table.weight
        )
        value = cached_step(
            encode, "sup_con", {"anchors": rows_of}, mini_batch_size=2, labels=labels
        )
        torch.testing.assert_close(torch.autograd.grad(value, table.weight), want)


def test_without_gradients_parts_run_once() -> None:
    calls = []
    model = encoder(0.0)
    model.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        y = cached(model, rows(10, 6), mini_batch_size=4)
    assert (len(calls), y.shape, y.requires_grad) == (3, (10, 4), False)


def test_cached_errors() -> None:
    x, model = rows(4, 6), encoder()
    for size in (0, True, 1.5):
        with pytest.raises(ArgumentError, match="mini_batch_size must be a whole number from 1"):
            cached(model, x, mini_batch_size=size)
    with pytest.raises(ArgumentTypeError, match=r"inputs must have rows to cut.*got str"):
        cached(model, "text", mini_batch_size=1)
    with pytest.raises(ArgumentError, match=r"share their rows, got \{'a': 4, 'b': 2\}"):
        cached(model, {"a": x, "b": x[:2]}, mini_batch_size=1)
    with pytest.raises(ArgumentTypeError, match="the input 'k' of an encoder must have rows"):
        cached(model, {"a": x, "k": 3}, mini_batch_size=1)
    for size in (2, 9):
        with pytest.raises(ArgumentTypeError, match=r"must return one tensor.*got tuple"):
            cached(lambda part: (model(part), 1), x, mini_batch_size=size)
    with pytest.raises(ArgumentError, match="encoder names 'queries', but inputs has anchors"):
        cached_step({"queries": model}, "info_nce", {"anchors": x}, mini_batch_size=2)
    with pytest.raises(ArgumentError, match="own_negatives=2, but inputs has no negatives"):
        cached_step(model, "info_nce", {"anchors": x}, mini_batch_size=2, own_negatives=2)


# Adapters --------------------------------------------------------------------------------------


def adapters() -> dict[str, list[Adapter]]:
    linear, thin = build("adapters", "linear", bias=True), build("adapters", "low_rank", rank=2)
    chain = build("adapters", "chain", adapters={"first": thin, "second": linear})
    return {
        "chain": [chain],
        "linear": [build("adapters", "linear"), linear],
        "low_rank": [thin, build("adapters", "low_rank", rank=2, alpha=6.0)],
        "micro_lora": [build("adapters", "micro_lora", rank=1)],
        "procrustes": [build("adapters", "procrustes")],
        "recomputed": [build("adapters", "recomputed", adapter=chain)],
        "whitening": [build("adapters", "whitening")],
    }


def test_every_adapter_of_ours_is_here() -> None:
    assert set(adapters()) == {e.name for e in registry().entries("adapters") if e.plugin.built_in}


ALL = [
    pytest.param(a, id=f"{name}-{i}")
    for name, found in adapters().items()
    for i, a in enumerate(found)
]


def module_of(adapter: Adapter, **more: Any) -> AdapterModule:
    """Return a module off its start, which is the identity for most."""
    if isinstance(adapter, coreframe.ClosedForm):
        x = np.random.default_rng(3).standard_normal((30, 6))
        return AdapterModule(adapter, 6, params=adapter.solve(x, x[:, ::-1].copy()), **more)
    module = AdapterModule(adapter, 6, **more)
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p += 0.3 * rows(*p.shape, seed=i)
    return module


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("adapter", ALL)
def test_an_adapters_gradients_are_those_of_its_matrix(adapter: Adapter, library: str) -> None:
    module = module_of(adapter, normalize=False, library=library).double()
    x, dy = rows(5, 6).requires_grad_(), rows(5, 6, seed=1)
    tensors = dict(module.named_parameters()) or dict(module.named_buffers())
    trained = [p for p in tensors.values() if p.requires_grad]
    w, b = adapter.matrix(tensors)
    want = x @ w if b is None else x @ w + b
    got = module(x)
    torch.testing.assert_close(got, want)
    for mine, its in zip(
        torch.autograd.grad(got, (x, *trained), dy),
        torch.autograd.grad(want, (x, *trained), dy),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("adapter", ALL)
def test_what_is_saved_is_the_same_map(adapter: Adapter, tmp_path: Path) -> None:
    module = module_of(adapter).float()
    x = rows(5, 6, dtype=torch.float32)
    module.save(tmp_path / "a", side="query", base_model="m")
    stored = coreframe.load(tmp_path / "a")
    assert stored.base_model == "m"
    torch.testing.assert_close(module(x).detach(), stored(x), rtol=1e-5, atol=1e-6)
    again = AdapterModule.load(tmp_path / "a")
    torch.testing.assert_close(again(x), module(x), rtol=1e-5, atol=1e-6)
    again.save(tmp_path / "b")  # to the bit
    twice = coreframe.load(tmp_path / "b").side("query").arrays
    for name, want in stored.side("query").arrays.items():
        np.testing.assert_array_equal(twice[name], want)


THIN = {"A": np.ones((4, 2), np.float32), "B": np.eye(2, 4, dtype=np.float32)}


@pytest.mark.parametrize(
    "side",
    [
        Side("linear", {"W": 2 * np.eye(4, dtype=np.float32), "b": np.ones(4, np.float32)}),
        Side("low_rank", THIN, 0.5),
        Side("low_rank", {**THIN, "b": np.ones(4, np.float32)}, 0.25),
        Side("identity", {"b": np.ones(4, np.float32)}),
        Side(),
    ],
    ids=["linear", "low rank", "low rank and bias", "shift", "identity"],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_any_stored_adapter_becomes_a_module(side: Side, normalize: bool, tmp_path: Path) -> None:
    TrainedAdapter(4, {"document": side}, normalize).save(tmp_path / "a")
    module = AdapterModule.load(tmp_path / "a", side="document")
    assert sorted(module.state_dict()) == sorted(side.arrays)
    x = rows(5, 4, dtype=torch.float32)
    x[0] = 0
    torch.testing.assert_close(
        module(x).detach(), coreframe.load(tmp_path / "a")(x, side="document")
    )
    double = module.double()
    checked = rows(3, 4).requires_grad_()
    names = tuple(dict(double.named_parameters()))

    def value(given: Any, *own: Any) -> Any:
        return torch.func.functional_call(double, dict(zip(names, own, strict=True)), (given,))

    assert torch.autograd.gradcheck(value, (checked, *double.parameters()))
    module.float().save(tmp_path / "b", side="both")
    both = coreframe.load(tmp_path / "b")
    for name in ("query", "document"):
        assert both.side(name).form == side.form
        torch.testing.assert_close(both(x, side=name), module(x).detach())


def test_an_adapter_is_trained_by_torch_and_served_without(tmp_path: Path) -> None:
    x, turn = rows(64, 8, dtype=torch.float32), torch.linalg.qr(rows(8, 8, seed=1))[0].float()
    documents = x @ turn
    module, loss_fn = AdapterModule("linear", 8, seed=1), LossModule("info_nce")
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss_fn(module(x), documents)
        value.backward()
        optimizer.step()
        values.append(value.detach().item())
    assert values[-1] < 0.3 * values[0]
    save_adapters(tmp_path / "a", query=module, similarity="cosine", notes={"by": "torch"})
    served = coreframe.load(tmp_path / "a")(x.numpy())  # NumPy in, NumPy out
    found = (served @ F.normalize(documents).numpy().T).argmax(1)
    assert (found == np.arange(64)).mean() > 0.9


def test_names_dtypes_and_shapes_of_adapters() -> None:
    module = AdapterModule(build("adapters", "micro_lora", rank=1, modules=("query", "key")), 6)
    assert list(module.state_dict()) == ["query.A", "query.B", "key.A", "key.B"]
    want = module.adapter.init(stream(0, "adapter"), 6)
    np.testing.assert_array_equal(module.state_dict()["key.A"], want["key.A"])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = rows(2, 3, 6).to(dtype).requires_grad_()
        y = module(x)
        assert (y.dtype, y.shape) == (dtype, (2, 3, 6))
        y.float().sum().backward()
        assert x.grad.dtype == dtype
        assert {p.grad.dtype for p in module.parameters()} == {torch.float32}
    assert module(torch.ones(6)).shape == (6,)
    assert not list(module_of(build("adapters", "whitening")).parameters())
    other = pickle.loads(pickle.dumps(module))
    assert torch.equal(other(torch.ones(1, 6)), module(torch.ones(1, 6)))


def test_autocast_does_not_reach_an_adapter() -> None:
    module, x = module_of(build("adapters", "low_rank", rank=2)), rows(5, 6, dtype=torch.float32)
    for library in ("numpy", "torch"):
        module.library = library
        want = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = module(x)
            got.sum().backward()
        assert torch.equal(got, want)


def test_an_adapter_whose_parameters_moved_has_no_gradient() -> None:
    module, x = module_of(build("adapters", "linear")), rows(5, 6)
    y = module(x)
    with torch.no_grad():
        module.W.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_an_adapter_is_differentiable_once() -> None:
    module, x = module_of(build("adapters", "linear")), rows(5, 6).requires_grad_()
    (slope,) = torch.autograd.grad(module(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(slope.sum(), x, allow_unused=True)
    with pytest.raises(ArgumentError, match=r"torch\.func"):
        torch.func.vmap(module)(x.detach())


def test_a_third_partys_adapter_with_noise() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Noisy(Adapter):
        def init(self, rng: Any, dim_in: int) -> Any:
            return {"scale": np.ones(dim_in, np.float32)}

        def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
            kept = 1.0 if rng is None else rng.integers(0, 2, size=x.shape).astype(x.dtype)

            def pullback(dy: Any, need_dx: bool = True) -> Any:
                return {"scale": (x * kept * dy).sum(0)}, kept * dy * params["scale"]

            return x * kept * params["scale"], pullback

        def matrix(self, params: Any) -> Any:
            return np.diag(params["scale"]), None

    module = AdapterModule(Noisy(), 6, normalize=False).double()
    x = rows(5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, rng=np.random.default_rng(0)), (x,))
    assert torch.equal(module(x), x)
    assert not torch.equal(module(x, rng=np.random.default_rng(0)), x)


def test_adapter_errors(tmp_path: Path) -> None:
    module = AdapterModule("linear", 6)
    with pytest.raises(ArgumentError, match=r"x must have width 6.*got \(2, 5\)"):
        module(torch.ones(2, 5))
    with pytest.raises(ArgumentTypeError, match=r"floating point numbers, got torch\.int64"):
        module(torch.ones(2, 6, dtype=torch.int64))
    with pytest.raises(ArgumentError, match=r"Whitening is computed in closed form.*solve"):
        AdapterModule("whitening", 6)
    with pytest.raises(ArgumentError, match="side must be 'query', 'document' or 'both'"):
        module.save(tmp_path, side="left")
    with pytest.raises(ArgumentError, match="must be given"):
        save_adapters(tmp_path)
    narrow = AdapterModule("linear", 6, params={"W": np.eye(6, 3, dtype=np.float32)})
    with pytest.raises(ArgumentError, match="widths 3 and 6, which cannot be compared"):
        narrow.save(tmp_path / "a")
    narrow.save(tmp_path / "a", side="both")
    x = torch.ones(2, 6)
    torch.testing.assert_close(coreframe.load(tmp_path / "a")(x), narrow(x).detach())
    with pytest.raises(ArgumentError, match="share width and normalize"):
        save_adapters(tmp_path, query=module, document=AdapterModule("linear", 5))


# Schedules -------------------------------------------------------------------------------------


@given(st.sampled_from([0.1, 1.0, 3.0, -2.0]), st.integers(1, 12))
def test_the_learning_rate_is_the_schedulers_value(base: float, steps: int) -> None:
    scheduler = build("schedulers", "warmup_cosine", peak=0.5, warmup_steps=0.25)
    factor = lr_lambda(scheduler, base=base, steps=steps)
    for step in range(2 * steps):
        assert factor(step) * base == pytest.approx(scheduler.at(step, steps))
    assert pickle.loads(pickle.dumps(factor))(1) == factor(1)


def test_a_schedule_drives_an_optimizer_and_goes_on_after_a_stop() -> None:
    scheduler = build("schedulers", "linear", start=0.4, end=0.0)

    def made() -> Any:
        groups = [
            {"params": [nn.Parameter(torch.zeros(1))]},
            {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1},
        ]
        optimizer = torch.optim.SGD(groups, lr=0.2)
        factor = lr_lambda(scheduler, base=0.2, steps=4)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    optimizer, lr = made()
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        lr.step()
    np.testing.assert_allclose(rates, [[v, v / 2] for v in (0.4, 0.3, 0.2, 0.1, 0.0)], atol=1e-12)
    state = lr.state_dict()
    optimizer, lr = made()
    lr.load_state_dict(state)
    assert lr.last_epoch == 5


def test_schedules_see_samples_and_epochs() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Counting(Scheduler):
        def __call__(self, progress: Any) -> float:
            return progress.samples + 1000 * progress.epoch

    factor = lr_lambda(Counting(), base=1.0, batch_size=32, steps_per_epoch=10)
    assert [factor(step) for step in (0, 9, 10, 25)] == [0, 288, 1320, 2800]


def test_schedule_errors() -> None:
    falling = build("schedulers", "linear", start=1.0, end=0.0)
    for base in (0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match=r"base must be finite and not 0.*lr=1, and base=1"):
            lr_lambda(falling, base=base)
    with pytest.raises(ArgumentTypeError, match="base must be a number"):
        lr_lambda(falling, base="0.1")
    with pytest.raises(ArgumentTypeError, match=r"scheduler must be a coreframe\.Scheduler"):
        lr_lambda(0.1, base=1.0)
    with pytest.raises(ArgumentError, match="number of steps of the run"):
        lr_lambda(falling, base=1.0)(0)

    @dataclass(frozen=True, kw_only=True)
    class Words(Scheduler):
        def __call__(self, progress: Any) -> Any:
            return "warm"

    with pytest.raises(ArgumentError, match="Words gives 'warm' at step 3"):
        lr_lambda(Words(), base=1.0)(3)


# As pytorch-metric-learning is called ----------------------------------------------------------

E, R = rows(6, 4), rows(5, 4, seed=1)
LABELS, OTHERS = torch.tensor([0, 1, 0, 2, 1, 0]), torch.tensor([2, 0, 1, 0, 1])


def sup_con(e: Any, r: Any, positive: Any, negative: Any) -> Any:
    """Khosla et al. 2020, eq. 2, on any pairs, averaged over rows with a positive."""
    z = F.normalize(e, dim=1) @ F.normalize(r, dim=1).T / 0.1
    there = z.masked_fill(~(positive | negative), -torch.inf)
    per_row = [
        torch.logsumexp(row, 0) - (z_row * p).sum() / p.sum()
        for row, z_row, p in zip(there, z, positive, strict=True)
        if p.any()
    ]
    return torch.stack(per_row).mean()


def same(left: Any, right: Any) -> Any:
    return left[:, None] == right[None, :]


def check(loss_fn: Any, want: Any, *arguments: Any, **more: Any) -> None:
    """Compare value and gradients with a formula of (embeddings, references)."""
    e, r = E.clone().requires_grad_(), R.clone().requires_grad_()
    given = (
        [e if x is E else x for x in arguments],
        {k: r if x is R else x for k, x in more.items()},
    )
    got, expected = loss_fn(*given[0], **given[1]), want(e, r)
    torch.testing.assert_close(got, expected)
    for a, b in zip(
        torch.autograd.grad(got, (e, r), allow_unused=True),
        torch.autograd.grad(expected, (e, r), allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_it_is_called_with_labels_and_with_references() -> None:
    loss_fn = MetricLearningLoss("sup_con")
    mine = same(LABELS, LABELS)
    itself = torch.eye(6, dtype=torch.bool)
    check(loss_fn, lambda e, r: sup_con(e, e, mine & ~itself, ~mine), E, LABELS)
    e = E.clone()
    torch.testing.assert_close(loss_fn(e, LABELS, ref_emb=e, ref_labels=LABELS), loss_fn(e, LABELS))
    theirs = same(LABELS, OTHERS)
    check(
        loss_fn,
        lambda e, r: sup_con(e, r, theirs, ~theirs),
        E, LABELS, ref_emb=R, ref_labels=OTHERS,
    )  # fmt: skip


def test_it_takes_the_pairs_of_their_miners() -> None:
    loss_fn = MetricLearningLoss("sup_con")
    pairs = ([0, 0, 1, 4], [2, 4, 4, 1], [0, 1, 1, 4], [1, 0, 3, 2])
    a1, p, a2, n = indices = tuple(torch.tensor(x) for x in pairs)
    positive, negative = torch.zeros(6, 6).bool(), torch.zeros(6, 6).bool()
    positive[a1, p], negative[a2, n] = True, True

    def chosen(e: Any, r: Any) -> Any:
        return sup_con(e, e, positive, negative)

    def between(e: Any, r: Any) -> Any:
        return sup_con(e, r, positive[:, :5], negative[:, :5])

    check(loss_fn, chosen, E, LABELS, indices)
    check(loss_fn, chosen, E, None, indices)
    check(loss_fn, between, E, LABELS, indices, ref_emb=R, ref_labels=OTHERS)
    check(loss_fn, between, E, None, indices, ref_emb=R)


def test_triplets_are_read_row_by_row_or_as_pairs() -> None:
    a, p, n = (torch.tensor(x) for x in ([0, 0, 1], [2, 5, 4], [1, 3, 2]))

    def formula(e: Any, r: Any) -> Any:
        gap = (e[a] - e[p]).norm(dim=1) - (e[a] - e[n]).norm(dim=1) + 2.0
        return F.relu(gap).mean()

    check(MetricLearningLoss(build("losses", "triplet", margin=2.0)), formula, E, LABELS, (a, p, n))
    pairs = MetricLearningLoss("sup_con")
    torch.testing.assert_close(pairs(E, LABELS, (a, p, n)), pairs(E, LABELS, (a, p, a, n)))


def test_no_pairs_are_a_loss_of_0() -> None:
    loss_fn, nothing = MetricLearningLoss("triplet"), torch.tensor([], dtype=torch.int64)
    e = E.clone().requires_grad_()
    for empty in ((nothing,) * 3, (nothing,) * 4):
        value = loss_fn(e, LABELS, empty)
        value.backward()
        assert value.item() == 0
        assert not e.grad.any()
    large = torch.full((4, 3), 60000.0, dtype=torch.float16)  # their sum is not finite
    assert loss_fn(large, torch.arange(4), (nothing,) * 3).item() == 0
    for name, count, n in (("sup_con", 4, len(E)), ("sup_con", 3, len(E)), ("triplet", 3, 0)):
        by_rows = MetricLearningLoss(build("losses", name, reduction="none"))
        assert by_rows(E, LABELS, (nothing,) * count).shape == (n,)


def test_triplets_row_by_row_are_a_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block adds up the gradient of all positives, so that many blocks are quadratic."""
    calls: list[slice] = []
    gather = blocks.Rows._gather
    monkeypatch.setattr(
        blocks.Rows, "_gather", lambda self, rows: calls.append(rows) or gather(self, rows)
    )
    loss_fn = LossModule(build("losses", "triplet", memory_budget=2**16))
    anchors, positives, negatives = (rows(2000, 4, seed=i).requires_grad_() for i in range(3))
    loss_fn(anchors, positives, negatives).backward()
    assert 0 < len(calls) <= 8
    calls.clear()
    with torch.no_grad():
        loss_fn(anchors, positives, negatives)  # a value alone needs no product of all with all
    assert calls


def test_a_loop_of_theirs_runs_unchanged() -> None:
    """With a miner of ours in the module, and gradients to the references too."""
    torch.manual_seed(0)
    trunk = nn.Linear(4, 4).double()
    optimizer = torch.optim.Adam(trunk.parameters(), lr=0.05)
    loss_fn = MetricLearningLoss("contrastive", miner=build("miners", "hardest", k=2))
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        value = loss_fn(trunk(E), LABELS)
        value.backward()
        optimizer.step()
        values.append(value.detach().item())
    assert values[-1] < 0.7 * values[0]


def test_calls_that_are_not_whole_are_errors() -> None:
    loss_fn = MetricLearningLoss("sup_con")
    with pytest.raises(ArgumentError, match="ref_emb and ref_labels go together"):
        loss_fn(E, LABELS, ref_emb=R)
    with pytest.raises(ArgumentError, match="labels or indices_tuple must be given"):
        loss_fn(E)
    with pytest.raises(ArgumentError, match=r"indices_tuple must be .* got 2 arrays"):
        loss_fn(E, LABELS, (LABELS, LABELS))
