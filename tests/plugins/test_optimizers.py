"""The optimizers: torch's trajectories, rules, and a state that belongs to its parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_near

from coreframe.errors import ArgumentError, ArgumentTypeError, MixedArrays
from coreframe.optimizer import Optimizer, Rule
from coreframe.scheduler import Progress, Scheduler, resolve
from coreframe_optimizers.adam import Adam
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD
from coreframe_schedulers.constant import Constant

STEPS = 200

SETTINGS = [
    SGD(learning_rate=0.05),
    SGD(learning_rate=0.02, momentum=0.9),
    SGD(learning_rate=0.02, momentum=0.8, nesterov=True, weight_decay=0.1),
    Adam(learning_rate=0.01),
    Adam(learning_rate=0.1, beta1=0.5, beta2=0.9, epsilon=1e-3, weight_decay=0.2),
    Adam(learning_rate=0.02, weight_decay=0.3, decoupled=True),
    Adam(learning_rate=0.003, beta1=0.0, beta2=0.0),
    AdamW(learning_rate=0.01),
    AdamW(learning_rate=0.1, beta1=0.5, beta2=0.9, epsilon=1e-3, weight_decay=0.2),
    AdamW(learning_rate=0.003, beta1=0.0, weight_decay=0.0),
]


def start(rng):
    return {
        "adapter.A": rng.standard_normal((4, 3)),
        "adapter.b": rng.standard_normal(3),
        "loss.log_scale": np.asarray(rng.standard_normal()),
    }


def gradients(params, step):
    """A bowl with noise, the same on both sides."""
    noise = np.random.default_rng(step)
    return {
        name: np.asarray(0.3 * p + noise.standard_normal(p.shape)) for name, p in params.items()
    }


# The trajectory ---------------------------------------------------------------------------------


def torchs(optimizer: Optimizer, params: list) -> object:
    """Return torch's optimizer with the same settings."""
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    options = {"lr": optimizer.learning_rate, "weight_decay": optimizer.weight_decay}
    if isinstance(optimizer, SGD):
        options |= {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
        return torch.optim.SGD(params, foreach=False, **options)
    options |= {"betas": (optimizer.beta1, optimizer.beta2), "eps": optimizer.epsilon}
    if isinstance(optimizer, AdamW):
        return torch.optim.AdamW(params, foreach=False, **options)
    decoupled = {"decoupled_weight_decay": True} if optimizer.decoupled else {}
    return torch.optim.Adam(params, foreach=False, **options, **decoupled)


def beside_torch(optimizer, first, steps, absent=lambda name, step: False):
    """Return our parameters and torch's after the same gradients, taken at torch's parameters."""
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    theirs = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in first.items()}
    other = torchs(resolve(optimizer, Progress(step=0)), list(theirs.values()))
    params, state = first, optimizer.init(first)
    for step in range(steps):
        now = resolve(optimizer, Progress(step=step))
        fresh = torchs(now, list(theirs.values())).param_groups[0]
        other.param_groups[0].update({k: x for k, x in fresh.items() if k != "params"})
        grads = gradients({name: p.detach().numpy() for name, p in theirs.items()}, step)
        grads = {name: g for name, g in grads.items() if not absent(name, step)}
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name]) if name in grads else None
        other.step()
        params, state = now.update(params, grads, state)
    assert state["step"] == steps
    return params, {name: p.detach().numpy() for name, p in theirs.items()}


@pytest.mark.parametrize("optimizer", SETTINGS, ids=repr)
def test_two_hundred_steps_equal_torchs(optimizer, rng):
    ours, theirs = beside_torch(optimizer, start(rng), STEPS)
    for name, p in theirs.items():
        assert_near(ours[name], p, 1e-12)


RATE, SHARE, DECAY = st.floats(1e-4, 0.5), st.floats(0.0, 0.99), st.floats(0.0, 0.5)


@given(
    optimizer=st.one_of(
        st.builds(SGD, learning_rate=RATE, momentum=SHARE, weight_decay=DECAY),
        st.builds(
            SGD,
            learning_rate=RATE,
            momentum=st.floats(0.1, 0.99),
            nesterov=st.just(True),
            weight_decay=DECAY,
        ),
        *(
            st.builds(
                kind,
                learning_rate=RATE,
                beta1=SHARE,
                beta2=SHARE,
                epsilon=st.floats(1e-8, 1e-2),
                weight_decay=DECAY,
            )
            for kind in (Adam, AdamW)
        ),
    ),
    seed=st.integers(0, 99),
)
def test_any_hyperparameters_equal_torchs(optimizer, seed):
    ours, theirs = beside_torch(optimizer, start(np.random.default_rng(seed)), 15)
    for name, p in theirs.items():
        assert_near(ours[name], p, 1e-10)


@dataclass(frozen=True, kw_only=True)
class Falling(Scheduler):
    """first / (1 + step / 4)."""

    first: float

    def __call__(self, progress):
        return self.first / (1 + progress.step / 4)


SCHEDULED = [
    SGD(
        learning_rate=Falling(first=0.1),
        momentum=Falling(first=0.9),
        weight_decay=Falling(first=0.5),
    ),
    Adam(learning_rate=Falling(first=0.1), beta1=Falling(first=0.9), weight_decay=0.1),
    Adam(learning_rate=0.01, weight_decay=Falling(first=0.5), epsilon=Falling(first=1e-3)),
    AdamW(learning_rate=Falling(first=0.1), weight_decay=Falling(first=0.5)),
]


@pytest.mark.parametrize("optimizer", SCHEDULED, ids=["sgd", "adam rate", "adam decay", "adamw"])
def test_scheduled_values_act_at_once_as_when_torchs_groups_are_changed(optimizer, rng):
    ours, theirs = beside_torch(optimizer, start(rng), 20)
    for name, p in theirs.items():
        assert_near(ours[name], p, 1e-12)


@pytest.mark.parametrize(
    "optimizer", [s for s in SETTINGS if not (isinstance(s, SGD) and s.nesterov)], ids=repr
)
def test_gradients_that_are_absent_at_times_equal_torchs(optimizer, rng):
    """The bias correction goes by the updates of each parameter, not by those of the run."""

    def absent(name, step):
        return name == "adapter.b" and step % 3 != 1

    ours, theirs = beside_torch(optimizer, start(rng), 12, absent)
    for name, p in theirs.items():
        assert_near(ours[name], p, 1e-12)


def oracle(o, params, all_grads):
    """The formulas, entry by entry in float64."""
    params = {name: np.array(p, np.float64) for name, p in params.items()}
    for name, p in params.items():
        v = m = np.zeros_like(p)
        for t, grads in enumerate(all_grads, 1):
            g = grads[name]
            if isinstance(o, SGD):
                g = g + o.weight_decay * p
                v = o.momentum * v + g
                p = p - o.learning_rate * (g + o.momentum * v if o.nesterov else v)
                continue
            coupled = isinstance(o, Adam) and not o.decoupled
            g = g + o.weight_decay * p if coupled else g
            p = p if coupled else p - o.learning_rate * o.weight_decay * p
            m = o.beta1 * m + (1 - o.beta1) * g
            v = o.beta2 * v + (1 - o.beta2) * g**2
            root = np.sqrt(v / (1 - o.beta2**t)) + o.epsilon
            p = p - o.learning_rate * m / (1 - o.beta1**t) / root
        params[name] = p
    return params


@pytest.mark.parametrize("optimizer", SETTINGS, ids=repr)
def test_every_library_follows_the_formula(library, optimizer, rng):
    first = start(rng)
    all_grads = [gradients(first, step) for step in range(4)]
    params = {name: library.asarray(p) for name, p in first.items()}
    state = optimizer.init(params)
    for grads in all_grads:
        ours = {name: library.asarray(g) for name, g in grads.items()}
        params, state = optimizer.update(params, ours, state)
    for name, p in oracle(optimizer, first, all_grads).items():
        assert_near(library.to_numpy(params[name]), p, 1e-12)


@pytest.mark.parametrize("optimizer", [SETTINGS[2], SETTINGS[4], SETTINGS[8]])
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
        assert library.to_numpy(new[name]).shape == first[name].shape


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), Adam(), AdamW()])
def test_narrow_parameters_are_updated_in_float32(optimizer, name, rng):
    """In float16 the squares of small gradients and an epsilon of 1e-8 are all zero."""
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    dtype = getattr(torch, name)
    narrow = {"W": torch.tensor(rng.standard_normal(5)).to(dtype)}
    wide = {"W": narrow["W"].float()}
    grads = {"W": torch.tensor([1e-6, -1e-4, 0.0, 1.0, 3.0]).to(dtype)}
    new, state = optimizer.update(narrow, grads, optimizer.init(narrow))
    want, _ = optimizer.update(wide, {"W": grads["W"].float()}, optimizer.init(wide))
    assert new["W"].dtype == dtype
    assert {x.dtype for k, x in state.items() if k != "step"} == {torch.float32}
    assert torch.equal(new["W"], want["W"].to(dtype))


def test_a_gradient_of_a_wider_dtype_does_not_widen_the_parameter(on_numpy):
    params = {"W": np.ones(3, np.float32)}
    optimizer = AdamW()
    new, state = optimizer.update(params, {"W": np.ones(3)}, optimizer.init(params))
    assert new["W"].dtype == state["first_moment/W"].dtype == np.float32


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), Adam(), AdamW()])
def test_after_a_step_that_was_left_out_the_next_is_as_the_first(library, optimizer, rng):
    """The trainer chooses between old and new on the device; the host does not know."""
    first = start(rng)
    params = {name: library.asarray(p) for name, p in first.items()}
    grads = {name: library.asarray(g) for name, g in gradients(first, 0).items()}
    xp, state = library.xp, optimizer.init(params)
    broken, after = optimizer.update(params, {n: g * float("nan") for n, g in grads.items()}, state)
    no = xp.isfinite(xp.sum(broken["adapter.b"]))
    after = {k: x if k == "step" else xp.where(no, x, state[k]) for k, x in after.items()}
    got, _ = optimizer.update(params, grads, after)
    want, _ = optimizer.update(params, grads, state)
    for name, x in want.items():
        assert np.array_equal(library.to_numpy(got[name]), library.to_numpy(x))


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


@pytest.mark.parametrize("optimizer", SETTINGS[2::3], ids=repr)
def test_an_update_can_be_compiled(optimizer, rng):
    """Nothing is looked at on the host."""
    jax = pytest.importorskip("jax", reason="the package jax is not installed")
    params = {name: jax.numpy.asarray(p, "float32") for name, p in start(rng).items()}
    state = optimizer.init(params)
    want, after = optimizer.update(params, params, state)
    got, compiled = jax.jit(optimizer.update)(params, params, state)
    assert compiled.keys() == after.keys()
    for name, x in want.items():
        assert_near(got[name], x, 1e-6)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), Adam(), AdamW(weight_decay=0.0)])
def test_gradients_of_zero_and_a_rate_of_zero_move_nothing(optimizer, on_numpy, rng):
    params = start(rng)
    zeros = {name: np.zeros_like(p) for name, p in params.items()}
    new, _ = optimizer.update(params, zeros, optimizer.init(params))
    assert all(np.array_equal(new[name], p) for name, p in params.items())
    still = type(optimizer)(learning_rate=0.0)
    new, _ = still.update(params, gradients(params, 0), still.init(params))
    assert all(np.array_equal(new[name], p) for name, p in params.items())


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


def test_lora_plus_is_one_rule(on_numpy, rng):
    """B learns faster than A by a ratio, here 16 (Hayou et al. 2024)."""
    params = {"adapter.A": rng.standard_normal((6, 2)), "adapter.B": np.zeros((2, 6))}
    grads = gradients(params, 0)
    rule = Rule("*.B", {"learning_rate": 16e-3})
    for plus in (AdamW(learning_rate=1e-3, rules=(rule,)), SGD(learning_rate=1e-3, rules=(rule,))):
        fast = type(plus)(learning_rate=16e-3)
        slow = type(plus)(learning_rate=1e-3)
        new, _ = plus.update(params, grads, plus.init(params))
        for name, alone in (("adapter.A", slow), ("adapter.B", fast)):
            want, _ = alone.update(params, grads, alone.init(params))
            assert np.array_equal(new[name], want[name])


def test_a_rule_may_hold_a_schedule(on_numpy, rng):
    params = start(rng)
    rule = Rule("*.b", {"learning_rate": Falling(first=0.4)})
    optimizer = resolve(SGD(learning_rate=0.0, rules=(rule,)), Progress(step=4))
    ones = {name: np.ones_like(p) for name, p in params.items()}
    new, _ = optimizer.update(params, ones, optimizer.init(params))
    assert_near(new["adapter.b"], params["adapter.b"] - 0.2)
    assert np.array_equal(new["adapter.A"], params["adapter.A"])


def test_a_pattern_that_matches_no_parameter_is_an_error(rng):
    params = start(rng)
    rules = (Rule("*", {}), Rule("adapter.B", {"learning_rate": 0.1}))
    with pytest.raises(ArgumentError) as caught:
        AdamW(rules=rules).init(params)
    assert str(caught.value) == (
        "the rule 'adapter.B' of AdamW matches no parameter. "
        "Did you mean 'adapter.b' or 'adapter.A'?"
    )
    never = Rule(lambda name, p: False, {"learning_rate": 0.1})  # asked, it may say no
    assert AdamW(rules=(never,)).init(params)["step"] == 0


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
        "loss.log_scale (): learning_rate=0.1, beta1=0.9, beta2=0.999, epsilon=1e-08, "
        "weight_decay=0.01",
    ]


def test_a_rule_that_overrides_nothing_known():
    with pytest.raises(
        ArgumentError, match=r"a rule of AdamW overrides 'weight_decy'. Did you mean 'weight_decay'"
    ):
        AdamW(rules=(Rule("*", {"weight_decy": 0.0}),))


# State ------------------------------------------------------------------------------------------


def test_the_state_is_keyed_by_name(rng):
    params = start(rng)
    del params["loss.log_scale"]
    names = ["first_moment", "second_moment", "updates"]
    for kind in (Adam, AdamW):
        wanted = [f"{slot}/adapter.{name}" for slot in names for name in "Ab"]
        assert sorted(kind().init(params)) == sorted([*wanted, "step"])
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
    narrow = {**state, "velocity/adapter.b": np.zeros(3, np.float32)}
    with pytest.raises(ArgumentError, match=r"adapter.b has dtype float32, must have float64 for"):
        optimizer.update(params, grads, narrow)
    with pytest.raises(ArgumentError, match="does not belong to these parameters of AdamW"):
        AdamW().update(params, grads, state)
    adam = Adam().init(params)
    with pytest.raises(ArgumentError, match=r"state updates/adapter.b has shape \(3,\), its par"):
        Adam().update(params, grads, {**adam, "updates/adapter.b": np.zeros(3)})


def test_a_renamed_parameter_is_refused_and_a_swapped_one_keeps_its_own_moments(rng):
    """PyTorch restores by position: two parameters of one shape would trade their moments."""
    params = {"query.W": rng.standard_normal((3, 3)), "document.W": rng.standard_normal((3, 3))}
    optimizer = AdamW(learning_rate=0.1)
    _, state = optimizer.update(params, gradients(params, 0), optimizer.init(params))
    want, _ = optimizer.update(params, gradients(params, 1), state)
    swapped = {name: params[name] for name in ("document.W", "query.W")}
    grads = gradients(params, 1)
    got, _ = optimizer.update(swapped, {name: grads[name] for name in swapped}, state)
    for name, x in want.items():
        assert np.array_equal(got[name], x)
    renamed = {"query.W": params["query.W"], "doc.W": params["document.W"]}
    with pytest.raises(ArgumentError, match=r"missing \['first_moment/doc.W', .* unknown \['fir"):
        optimizer.update(renamed, {}, state)


def test_parameters_that_cannot_be_trained():
    with pytest.raises(ArgumentTypeError, match="the parameter 'W' must be floating point, got in"):
        SGD().init({"W": np.ones(3, np.int64)})
    with pytest.raises(ArgumentError, match=r"the parameter 'W' is empty: its shape is \(0, 3\)"):
        SGD().init({"W": np.ones((0, 3))})


def test_a_state_of_another_library_is_refused(rng):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    params = {"W": np.ones(3)}
    state = AdamW().init({"W": strict.ones(3, dtype=strict.float64)})
    with pytest.raises(MixedArrays, match=r"state\[first_moment/W\]: array_api_strict"):
        AdamW().update(params, params, state)


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
        (Adam, {"beta1": -0.1}, "Adam.beta1 must be at least 0 and below 1, got -0.1"),
        (Adam, {"weight_decay": -1}, "Adam.weight_decay must be at least 0, got -1"),
        (AdamW, {"beta2": 1.5}, "AdamW.beta2 must be at least 0 and below 1, got 1.5"),
        (AdamW, {"epsilon": 0.0}, "AdamW.epsilon must be above 0, got 0.0"),
        (AdamW, {"weight_decay": float("nan")}, "AdamW.weight_decay must be finite, got nan"),
    ],
)
def test_fields_that_cannot_work(kind, arguments, text):
    with pytest.raises(ArgumentError) as caught:
        kind(**arguments)
    assert str(caught.value) == text
