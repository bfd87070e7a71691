"""The optimizers: torch's trajectories, rules, and a state that belongs to its parameters."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_near

from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.optimizer import Rule
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD
from coreframe_schedulers.constant import Constant

STEPS = 200

SETTINGS = [
    (SGD(learning_rate=0.05), "SGD", {"lr": 0.05}),
    (SGD(learning_rate=0.02, momentum=0.9), "SGD", {"lr": 0.02, "momentum": 0.9}),
    (
        SGD(learning_rate=0.02, momentum=0.8, nesterov=True, weight_decay=0.1),
        "SGD",
        {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    (AdamW(learning_rate=0.01), "AdamW", {"lr": 0.01}),
    (
        AdamW(learning_rate=0.1, beta1=0.5, beta2=0.9, epsilon=1e-3, weight_decay=0.2),
        "AdamW",
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.2},
    ),
    (
        AdamW(learning_rate=0.003, beta1=0.0, weight_decay=0.0),
        "AdamW",
        {"lr": 0.003, "betas": (0.0, 0.999), "weight_decay": 0.0},
    ),
]


def start(rng):
    return {"adapter.A": rng.standard_normal((4, 3)), "adapter.b": rng.standard_normal(3)}


def gradients(params, step):
    """A bowl with noise, the same on both sides."""
    noise = np.random.default_rng(step)
    return {name: 0.3 * p + noise.standard_normal(p.shape) for name, p in params.items()}


@pytest.mark.parametrize(("optimizer", "kind", "arguments"), SETTINGS)
def test_two_hundred_steps_equal_torchs(library, optimizer, kind, arguments, rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    first = start(rng)
    theirs = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in first.items()}
    other = getattr(torch.optim, kind)(theirs.values(), **arguments)
    params = {name: library.asarray(p) for name, p in first.items()}
    state = optimizer.init(params)
    for step in range(STEPS):
        grads = gradients({name: p.detach().numpy() for name, p in theirs.items()}, step)
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name])
        other.step()
        ours = {name: library.asarray(g) for name, g in grads.items()}
        params, state = optimizer.update(params, ours, state)
    assert state["step"] == STEPS
    for name, p in theirs.items():
        assert_near(library.to_numpy(params[name]), p.detach().numpy(), 1e-12)


@pytest.mark.parametrize("optimizer", [s[0] for s in SETTINGS])
def test_types_and_inputs_are_kept(library, optimizer, rng):
    first = start(rng)
    params = {name: library.asarray(p, "float32") for name, p in first.items()}
    grads = {name: library.asarray(p, "float32") for name, p in gradients(first, 0).items()}
    before = {name: library.to_numpy(g).copy() for name, g in grads.items()}
    state = optimizer.init(params)
    new, new_state = optimizer.update(params, grads, state)
    for x in (*new.values(), *(v for k, v in new_state.items() if k != "step")):
        assert x.dtype == library.xp.float32
    for name, g in grads.items():
        assert np.array_equal(library.to_numpy(g), before[name])


def test_a_parameter_without_a_gradient_stays(on_numpy, rng):
    params = start(rng)
    optimizer = AdamW(weight_decay=0.5)
    state = optimizer.init(params)
    new, new_state = optimizer.update(params, {"adapter.b": np.ones(3)}, state)
    assert np.array_equal(new["adapter.A"], params["adapter.A"])
    assert not new_state["first_moment/adapter.A"].any()
    assert not np.array_equal(new["adapter.b"], params["adapter.b"])
    same, _ = optimizer.update(params, {}, state)
    assert all(np.array_equal(same[name], p) for name, p in params.items())


# Rules ------------------------------------------------------------------------------------------


def test_rules_by_glob_and_by_predicate(on_numpy, rng):
    params = start(rng)
    grads = {name: np.zeros_like(p) for name, p in params.items()}
    for match in ("*.b", lambda name, p: p.ndim <= 1):
        optimizer = AdamW(
            learning_rate=0.1, weight_decay=0.5, rules=(Rule(match, {"weight_decay": 0.0}),)
        )
        new, _ = optimizer.update(params, grads, optimizer.init(params))
        assert np.array_equal(new["adapter.b"], params["adapter.b"])
        assert_near(new["adapter.A"], 0.95 * params["adapter.A"])


def test_the_first_rule_that_matches_decides(on_numpy, rng):
    params = start(rng)
    grads = {name: np.ones_like(p) for name, p in params.items()}
    optimizer = SGD(
        learning_rate=1.0,
        rules=(Rule("*.b", {"learning_rate": 0.5}), Rule("*", {"learning_rate": 0.0})),
    )
    new, _ = optimizer.update(params, grads, optimizer.init(params))
    assert_near(new["adapter.b"], params["adapter.b"] - 0.5)
    assert np.array_equal(new["adapter.A"], params["adapter.A"])


def test_describe_says_what_applies_to_each_parameter(rng):
    optimizer = AdamW(learning_rate=0.1, rules=(Rule("*.b", {"weight_decay": 0.0}),))
    lines = optimizer.describe(start(rng)).splitlines()
    assert lines == [
        "adapter.A (4, 3): learning_rate=0.1, beta1=0.9, beta2=0.999, epsilon=1e-08, "
        "weight_decay=0.01",
        "adapter.b (3,): learning_rate=0.1, beta1=0.9, beta2=0.999, epsilon=1e-08, "
        "weight_decay=0.0",
    ]


def test_a_rule_that_overrides_nothing_known():
    with pytest.raises(
        ArgumentError, match=r"a rule of AdamW overrides 'weight_decy'. Did you mean 'weight_decay'"
    ):
        AdamW(rules=(Rule("*", {"weight_decy": 0.0}),))


# State ------------------------------------------------------------------------------------------


def test_the_state_is_keyed_by_name(rng):
    params = start(rng)
    assert sorted(AdamW().init(params)) == [
        "first_moment/adapter.A",
        "first_moment/adapter.b",
        "second_moment/adapter.A",
        "second_moment/adapter.b",
        "step",
    ]
    turned = dict(reversed(list(params.items())))
    optimizer = AdamW(learning_rate=0.1)
    grads = gradients(params, 0)
    one, _ = optimizer.update(params, grads, optimizer.init(params))
    other, _ = optimizer.update(turned, grads, optimizer.init(params))
    assert all(np.array_equal(one[name], other[name]) for name in params)


def test_a_state_of_other_parameters_is_refused(rng):
    params = start(rng)
    optimizer = SGD()
    state = dict(optimizer.init(params))
    grads = gradients(params, 0)
    with pytest.raises(ArgumentError, match=r"missing \['velocity/adapter.c'\], unknown nothing"):
        optimizer.update({**params, "adapter.c": np.zeros(2)}, grads, state)
    with pytest.raises(ArgumentError, match=r"missing nothing, unknown \['velocity/old'\]"):
        optimizer.update(params, grads, {**state, "velocity/old": np.zeros(2)})
    with pytest.raises(
        ArgumentError, match=r"state velocity/adapter.b has shape \(7,\), its parameter \(3,\)"
    ):
        optimizer.update(params, grads, {**state, "velocity/adapter.b": np.zeros(7)})
    with pytest.raises(ArgumentError, match="does not belong to these parameters of AdamW"):
        AdamW().update(params, grads, state)


def test_gradients_that_belong_to_nothing(rng):
    params = start(rng)
    optimizer = SGD()
    state = optimizer.init(params)
    with pytest.raises(
        ArgumentError, match=r"grads has 'adapter.a', which is no parameter. Did you mean"
    ):
        optimizer.update(params, {"adapter.a": np.zeros(3)}, state)
    with pytest.raises(
        ArgumentError, match=r"gradient of 'adapter.b' must have its shape \(3,\), got \(4,\)"
    ):
        optimizer.update(params, {"adapter.b": np.zeros(4)}, state)


def test_a_scheduled_rate_must_be_resolved(rng):
    params = start(rng)
    optimizer = SGD(learning_rate=Constant(value=0.1))
    with pytest.raises(ArgumentTypeError, match=r"SGD.learning_rate is scheduled"):
        optimizer.update(params, {}, optimizer.init(params))


@pytest.mark.parametrize(
    ("kind", "arguments", "text"),
    [
        (SGD, {"learning_rate": -1.0}, "SGD.learning_rate must be at least 0, got -1.0"),
        (SGD, {"momentum": 1.0}, "SGD.momentum must be at least 0 and below 1, got 1.0"),
        (SGD, {"nesterov": True}, "SGD.nesterov needs a momentum above 0"),
        (AdamW, {"beta2": 1.5}, "AdamW.beta2 must be at least 0 and below 1, got 1.5"),
        (AdamW, {"epsilon": 0.0}, "AdamW.epsilon must be above 0, got 0.0"),
        (AdamW, {"weight_decay": float("nan")}, "AdamW.weight_decay must be finite, got nan"),
    ],
)
def test_fields_that_cannot_work(kind, arguments, text):
    with pytest.raises(ArgumentError) as caught:
        kind(**arguments)
    assert str(caught.value) == text
