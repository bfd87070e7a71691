"""Chains of adapters: the chain rule, streams by layer, the folded map, and training by name."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

import numpy as np
import pytest
from support import assert_is_gradient, assert_near

import coreframe
from coreframe import config
from coreframe.backend import device_of, namespace
from coreframe.errors import ArgumentError, ArgumentTypeError, ConfigError
from coreframe.random import stream
from coreframe_adapters.chain import Chain
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.micro_lora import MicroLoRA
from coreframe_adapters.recomputed import Recomputed
from coreframe_adapters.whitening import Whitening

N, D = 7, 6
CHAIN = Chain(
    adapters={
        "first": LowRank(rank=2, alpha=3.0),
        "full": Linear(bias=True),
        "last": LowRank(rank=2, alpha=1.0),
    }
)


@dataclass(frozen=True, kw_only=True)
class Noisy(Linear):
    """A matrix, then dropout."""

    def forward(self, params, x, *, rng=None):
        y, pull = super().forward(params, x)
        if rng is None:
            return y, pull
        keep = 2.0 * (rng.random(tuple(y.shape)) < 0.5)
        keep = namespace(x=x).asarray(keep, dtype=x.dtype, device=device_of(x))
        return y * keep, lambda dy, need_dx=True: pull(dy * keep, need_dx=need_dx)


@dataclass(frozen=True, kw_only=True)
class Narrow(Linear):
    """A matrix to three dimensions."""

    def init(self, rng, dim_in):
        return {"W": rng.standard_normal((dim_in, 3)).astype(np.float32)}


def some_params(adapter, rng, d=D):
    fresh = adapter.init(stream(0, "x"), d)
    return {name: rng.standard_normal(p.shape) for name, p in fresh.items()}


def test_gradients_are_autograds(library, rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    params, x, dy = some_params(CHAIN, rng), *rng.standard_normal((2, N, D))
    leaves = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    there = torch.tensor(x, requires_grad=True)
    y = there + 1.5 * there @ leaves["first.A"] @ leaves["first.B"]
    y = y @ leaves["full.W"] + leaves["full.b"]
    y = y + 0.5 * y @ leaves["last.A"] @ leaves["last.B"]
    want = torch.autograd.grad(torch.sum(y * torch.tensor(dy)), [there, *leaves.values()])
    here = {name: library.asarray(p) for name, p in params.items()}
    ours, pullback = CHAIN.forward(here, library.asarray(x))
    grads, dx = pullback(library.asarray(dy))
    assert_near(library.to_numpy(ours), y.detach().numpy(), 1e-12)
    assert_near(library.to_numpy(dx), want[0].numpy(), 1e-12)
    assert sorted(grads) == sorted(params)
    for name, g in zip(leaves, want[1:], strict=True):
        assert_near(library.to_numpy(grads[name]), g.numpy(), 1e-12)


def test_gradients_through_a_change_of_width(library, rng):
    chain = Chain(adapters={"down": Narrow(), "full": Linear(bias=True)})
    fresh = chain.init(stream(0, "x"), D)
    assert {name: p.shape for name, p in fresh.items()} == {
        "down.W": (D, 3),
        "full.W": (3, 3),
        "full.b": (3,),
    }
    params, x, dy = (
        some_params(chain, rng),
        rng.standard_normal((N, D)),
        rng.standard_normal((N, 3)),
    )
    here = {name: library.asarray(p) for name, p in params.items()}
    grads, dx = chain.forward(here, library.asarray(x))[1](library.asarray(dy))

    def value(params, x):
        return float(np.sum(chain.forward(params, x)[0] * dy))

    assert_is_gradient(lambda v: value(params, v), x, library.to_numpy(dx), rng)
    for name, p in params.items():
        assert_is_gradient(
            lambda v, name=name: value({**params, name: v}, x),
            p,
            library.to_numpy(grads[name]),
            rng,
        )


def test_each_layer_has_a_stream_of_its_own():
    layer = LowRank(rank=2)
    both = Chain(adapters={"a": layer, "b": layer}).init(stream(0, "x"), D)
    assert not np.array_equal(both["a.A"], both["b.A"])
    alone = Chain(adapters={"b": layer}).init(stream(0, "x"), D)
    turned = Chain(adapters={"b": layer, "a": layer}).init(stream(0, "x"), D)
    for other in (alone, turned):  # a layer's draw depends on no other layer
        assert np.array_equal(other["b.A"], both["b.A"])
    again = Chain(adapters={"b": layer}).init(stream(1, "x"), D)
    assert not np.array_equal(again["b.A"], both["b.A"])


def test_noise_is_one_stream_a_layer(library):
    names = ("a", "b")
    chain = Chain(adapters={name: Noisy() for name in names})
    params = {f"{name}.W": library.asarray(np.eye(D)) for name in names}
    x = library.asarray(np.ones((40, D)))
    first, again, other = (
        library.to_numpy(chain.forward(params, x, rng=stream(0, "noise", step))[0])
        for step in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    kept = np.mean(first > 0)  # both layers keep it: a quarter, were their draws not the same
    assert 0.15 < kept < 0.35
    assert np.array_equal(library.to_numpy(chain.forward(params, x)[0]), np.ones((40, D)))
    # The two passes of a step (queries, then documents) draw differently.
    rng = stream(0, "noise", 3)
    queries, documents = (library.to_numpy(chain.forward(params, x, rng=rng)[0]) for _ in range(2))
    assert np.array_equal(queries, first)
    assert not np.array_equal(documents, first)


def test_squared_gradients_see_the_noise_of_the_pass(rng):
    chain = Chain(adapters={"noisy": Noisy(), "low": LowRank(rank=1)})
    params, x, dy = some_params(chain, rng), *rng.standard_normal((2, 1, D))
    got = chain.squared_gradients(params, x, dy, rng=stream(0, "noise"))
    grads, _ = chain.forward(params, x, rng=stream(0, "noise"))[1](dy)
    assert_near(got["low.A"], grads["low.A"] ** 2, 1e-12)


# The folded map ---------------------------------------------------------------------------------


def test_the_thin_form_is_the_chain(library, rng):
    chain = Chain(adapters={"a": LowRank(rank=2, alpha=3.0), "b": LowRank(rank=1), "c": MicroLoRA(
        rank=1, modules=("x", "y")
    )})  # fmt: skip
    params, x = some_params(chain, rng, 40), rng.standard_normal((N, 40))
    here = {name: library.asarray(p) for name, p in params.items()}
    a, b, scaling = (
        part if isinstance(part, float) else library.to_numpy(part) for part in chain.thin(here)
    )
    assert a.shape == (40, 5)
    assert b.shape == (5, 40)
    y = library.to_numpy(chain.forward(here, library.asarray(x))[0])
    assert_near(x + scaling * (x @ a) @ b, y, 1e-10)
    w, bias = chain.matrix(here)
    assert bias is None
    assert_near(x @ library.to_numpy(w), y, 1e-10)


def test_no_thin_form_where_the_matrix_is_smaller_or_a_layer_is_full(rng):
    chain = Chain(adapters={"a": LowRank(rank=2), "b": LowRank(rank=1)})
    assert chain.thin(some_params(chain, rng, 7)) is not None
    assert chain.thin(some_params(chain, rng, 6)) is None
    assert CHAIN.thin(some_params(CHAIN, rng)) is None
    alone = Chain(adapters={"a": LowRank(rank=2, alpha=3.0)})
    params, x = some_params(alone, rng, 9), rng.standard_normal((N, 9))
    a, b, scaling = alone.thin(params)
    assert_near(x + scaling * (x @ a) @ b, alone.forward(params, x)[0], 1e-12)


# Training ---------------------------------------------------------------------------------------


def pairs(d=12, n=120):
    rng = np.random.default_rng(3)
    documents = rng.standard_normal((n, d)).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    return coreframe.Pairs(documents @ turn.T + 0.5 * documents, documents)


@pytest.mark.parametrize(
    ("adapter", "form"),
    [
        (CHAIN, "linear"),
        (Chain(adapters={"a": LowRank(rank=2), "b": LowRank(rank=2, alpha=4.0)}), "low_rank"),
        ("micro_lora", "linear"),
        (MicroLoRA(rank=2, modules=("a", "b")), "low_rank"),
        (Recomputed(adapter=MicroLoRA(rank=2, modules=("a", "b"))), "low_rank"),
        (Recomputed(adapter=LowRank(rank=3), segments=2), "low_rank"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("side", ["query", "both"])
def test_what_is_stored_is_what_was_trained(adapter, form, side, tmp_path):
    data = pairs()
    options = {"side": side, "epochs": 4, "batch_size": 32, "seed": 1}
    run = coreframe.fit(data, data, adapter=adapter, **options)
    made = coreframe.build("adapters", adapter) if isinstance(adapter, str) else adapter
    own = {name.removeprefix("adapter."): p for name, p in run.params.items()}
    assert sorted(own) == sorted(made.init(stream(0, "x"), 12))
    assert run.best_epoch > 0
    assert run.adapter.side("query").form == form
    run.adapter.save(tmp_path)
    loaded = coreframe.load(tmp_path)
    y, _ = made.forward(own, data.queries)
    want = y / np.linalg.norm(y, axis=1, keepdims=True)
    for stored in (run.adapter, loaded):
        assert_near(stored(data.queries), want, 1e-5)
    moved = loaded(data.documents, side="document")
    plain = data.documents / np.linalg.norm(data.documents, axis=1, keepdims=True)
    assert np.allclose(moved, plain, atol=1e-6) == (side == "query")


TOML = """
[adapter]
name = "recomputed"
segments = 2

[adapter.adapter]
name = "chain"

[adapter.adapter.adapters.second]
name = "low_rank"
rank = 2

[adapter.adapter.adapters.first]
name = "micro_lora"
modules = ["query", "dense"]
"""


def test_it_is_read_from_a_file_and_written_back():
    run = config.parse(tomllib.loads(TOML))
    wanted = Recomputed(
        adapter=Chain(
            adapters={
                "second": LowRank(rank=2),
                "first": MicroLoRA(modules=("query", "dense")),
            }
        ),
        segments=2,
    )
    assert run.adapter == wanted
    assert list(run.adapter.adapter.adapters) == ["second", "first"]  # in the order of the file
    again = config.parse(tomllib.loads(config.dump(run)))
    assert again.adapter == wanted
    assert list(again.adapter.adapter.adapters) == ["second", "first"]


def test_mistakes_in_a_file_are_named():
    broken = TOML.replace('"low_rank"', '"low_rnk"').replace("segments = 2", "segments = 0")
    with pytest.raises(ConfigError) as error:
        config.parse(tomllib.loads(broken))
    assert "adapter.adapter.adapters.second.name: no adapter is named 'low_rnk'" in str(error.value)
    with pytest.raises(ConfigError, match="segments must be 'sqrt' or a whole number from 1"):
        config.parse(tomllib.loads(TOML.replace("segments = 2", "segments = 0")))
    with pytest.raises(ConfigError, match=r"adapters must name at least one adapter"):
        config.parse({"adapter": {"name": "chain", "adapters": {}}})


def test_chains_that_cannot_be():
    with pytest.raises(ArgumentError, match=r"Chain.adapters must name at least one adapter"):
        Chain(adapters={})
    with pytest.raises(ArgumentTypeError, match=r"Chain.adapters must map names to adapters"):
        Chain(adapters=[LowRank()])
    for name in ("a.b", "", 3):
        with pytest.raises(ArgumentError, match="cannot name a layer"):
            Chain(adapters={name: LowRank()})
    with pytest.raises(ArgumentTypeError, match=r"Chain.adapters\['a'\] must be an adapter"):
        Chain(adapters={"a": LowRank})
    with pytest.raises(ArgumentTypeError, match=r"'a'\] is a Whitening.*use it as start="):
        Chain(adapters={"a": Whitening()})
    with pytest.raises(ArgumentTypeError, match=r"Recomputed.adapter must be an adapter that is"):
        Recomputed(adapter=Whitening())
