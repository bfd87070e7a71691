"""Each typeset formula has the value that the code has: computed here once more, as it is written.

A function below is the formula of ``docs/formulas.toml`` in plain NumPy, entry by entry, and stands
under a digest of it: who changes a formula reads its function again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from from_docs import from_docs

from coreframe import Batch, Progress, build
from coreframe.random import fresh_seeds, gumbel, hash_keys
from coreframe_schedulers.curriculum import Stage

formulas = from_docs("making.formulas")

Pair = tuple[Any, Any]
"""What the code computes, and what the formula says."""

VALUES: dict[tuple[str, str], tuple[str, Callable[[], Pair]]] = {}

N = 6
RNG = np.random.default_rng(5)
A, R = RNG.normal(size=(2, N, 4))
LABELS = np.asarray([0, 0, 1, 1, 1, 2])
OTHERS = [(i, j) for i in range(N) for j in range(N) if i != j]
POSITIVES = {i: [j for j in range(N) if j != i and LABELS[j] == LABELS[i]] for i in range(N)}
NEGATIVES = {i: [j for j in range(N) if LABELS[j] != LABELS[i]] for i in range(N)}


def digest(formula: str) -> str:
    return hashlib.sha256(" ".join(formula.split()).encode()).hexdigest()[:6]


def formula(kind: str, name: str, of: str) -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
    def keep(function: Callable[[], Pair]) -> Callable[[], Pair]:
        VALUES[kind, name] = (of, function)
        return function

    return keep


def test_every_formula_is_computed() -> None:
    assert set(VALUES) == {
        (kind, name) for kind in formulas.KINDS for name in formulas.read()[kind]
    }


@pytest.mark.parametrize(("kind", "name"), VALUES)
def test_the_formula_and_the_code_have_one_value(kind: str, name: str) -> None:
    of, function = VALUES[kind, name]
    ours, theirs = function()
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    changed = "the formula has changed: compare this function with it, and then its digest"
    assert of == digest(formulas.of(kind, name)), changed


def cosine(u: Any, v: Any) -> float:
    return float(u @ v / math.sqrt(u @ u) / math.sqrt(v @ v))


def distance(u: Any, v: Any) -> float:
    return math.sqrt(((u - v) ** 2).sum())


def logsumexp(values: Any) -> float:
    return math.log(sum(math.exp(z) for z in values))


def mean(values: Any) -> float:
    return float(np.mean(list(values)))


def value(name: str, batch: Batch, **fields: Any) -> float:
    return float(build("losses", name, **fields).value_and_grad(batch).value)


PAIRS, LABELLED = Batch.pairs(A, R), Batch.labelled(A, LABELS)


# Losses ---------------------------------------------------------------------------------------


@formula("losses", "contrastive", "74bf1b")
def contrastive() -> Pair:
    def term(i: int, j: int) -> float:
        d = distance(A[i], A[j])
        return d**2 if j in POSITIVES[i] else max(0, 2.5 - d) ** 2

    rows = [mean(term(i, j) for j in range(N) if j != i) for i in range(N)]
    return value("contrastive", LABELLED, margin=2.5), mean(rows)


@formula("losses", "cosine_embedding", "bb6724")
def cosine_embedding() -> Pair:
    labels = [1, -1, 1, -1, -1, 1]
    s = [cosine(a, r) for a, r in zip(A, R, strict=True)]
    rows = [1 - s[i] if labels[i] == 1 else max(0, s[i] + 0.9) for i in range(N)]
    loss = build("losses", "cosine_embedding", margin=-0.9)
    return float(loss(A, R, labels=labels).value), mean(rows)


@formula("losses", "cross_entropy", "ad141c")
def cross_entropy() -> Pair:
    y, s = [0, 3, 1, 2, 2, 0], 0.2
    p = [[math.exp(z) / sum(math.exp(o) for o in row) for z in row] for row in A]
    rows = [
        (1 - s) * -math.log(p[i][y[i]]) + s * mean(-math.log(q) for q in p[i]) for i in range(N)
    ]
    return float(build("losses", "cross_entropy", label_smoothing=s)(A, labels=y).value), mean(rows)


@formula("losses", "info_nce", "285db2")
def info_nce() -> Pair:
    def term(i: int, p: int) -> float:
        positive = math.exp((cosine(A[i], A[p]) - 0.1) / 0.3)
        negatives = sum(math.exp(cosine(A[i], A[j]) / 0.3) for j in NEGATIVES[i])
        return -math.log(positive / (positive + negatives))

    rows = [mean(term(i, p) for p in POSITIVES[i]) for i in range(N) if POSITIVES[i]]
    return value("info_nce", LABELLED, temperature=0.3, margin=0.1), mean(rows)


@formula("losses", "local_contrastive", "bc30ae")
def local_contrastive() -> Pair:
    rows = [
        mean(max(0, distance(A[i], R[i]) - distance(A[i], R[k]) + 1.5) for k in range(N) if k != i)
        for i in range(N)
    ]
    return value("local_contrastive", PAIRS, margin=1.5), mean(rows)


@formula("losses", "mined", "8197f1")
def mined() -> Pair:
    loss, miner = build("losses", "triplet", mode="all"), build("miners", "hardest", k=2)
    relation = miner.mine(PAIRS, rng=np.random.default_rng(0))
    left = Batch(anchors=A, references=R, relation=relation)
    both = build("losses", "mined", loss=loss, miner=miner)
    return float(both.value_and_grad(PAIRS).value), float(loss.value_and_grad(left).value)


@formula("losses", "mse", "4e0323")
def mse() -> Pair:
    rows = [mean((A[i][c] - R[i][c]) ** 2 for c in range(4)) for i in range(N)]
    return value("mse", PAIRS), mean(rows)


@formula("losses", "nca", "746760")
def nca() -> Pair:
    def z(i: int, j: int) -> float:
        return -(distance(A[i], A[j]) ** 2) / 3

    rows = [
        logsumexp(z(i, j) for j in range(N) if j != i) - logsumexp(z(i, p) for p in POSITIVES[i])
        for i in range(N)
        if POSITIVES[i]
    ]
    return value("nca", LABELLED, temperature=3.0), mean(rows)


@formula("losses", "sup_con", "200d6c")
def sup_con() -> Pair:
    def z(i: int, j: int) -> float:
        return cosine(A[i], A[j]) / 0.4

    rows = [
        logsumexp(z(i, j) for j in range(N) if j != i) - mean(z(i, p) for p in POSITIVES[i])
        for i in range(N)
        if POSITIVES[i]
    ]
    return value("sup_con", LABELLED, temperature=0.4), mean(rows)


@formula("losses", "symmetric", "8ce25d")
def symmetric() -> Pair:
    loss = build("losses", "sup_con")
    both = build("losses", "symmetric", loss=loss)
    there, back = (float(loss(x, y).value) for x, y in ((A, R), (R, A)))
    return float(both(A, R).value), (there + back) / 2


@formula("losses", "triplet", "ff6514")
def triplet() -> Pair:
    rows = [
        mean(
            max(0, distance(A[i], A[p]) - distance(A[i], A[n]) + 1.2)
            for p in POSITIVES[i]
            for n in NEGATIVES[i]
        )
        for i in range(N)
        if POSITIVES[i]
    ]
    return value("triplet", LABELLED, margin=1.2, mode="all"), mean(rows)


@formula("losses", "weighted_sum", "5ed7f3")
def weighted_sum() -> Pair:
    losses = {"first": build("losses", "mse"), "second": build("losses", "info_nce")}
    both = build("losses", "weighted_sum", losses=losses, weights={"first": 0.5, "second": 3.0})
    first, second = (float(loss(A, R).value) for loss in losses.values())
    return float(both(A, R).value), 0.5 * first + 3.0 * second


# Miners ---------------------------------------------------------------------------------------


def top(k: int, scores: Any) -> list[int]:
    """Return the columns of the k largest of scores that are given by column."""
    return sorted(scores, key=lambda j: -scores[j])[:k]


def chosen(name: str, batch: Batch, k: int, **fields: Any) -> Any:
    return build("miners", name, **fields).choose(batch, k, rng=np.random.default_rng(3))


@formula("miners", "hardest", "80689a")
def hardest() -> Pair:
    want = [top(2, {j: cosine(A[i], R[j]) for j in range(N) if j != i}) for i in range(N)]
    return chosen("hardest", PAIRS, 2), want


@formula("miners", "in_batch", "bd4b47")
def in_batch() -> Pair:
    references = R.copy()
    references[3], references[4] = A[0], R[1]
    relation = build("miners", "in_batch", threshold=0.3).mine(Batch.pairs(A, references), rng=None)
    _, kept = relation.tile(slice(0, N), slice(0, N), np, None)
    want = [
        [
            i != j
            and not np.array_equal(references[j], A[i])
            and not np.array_equal(references[j], references[i])
            and cosine(references[i], references[j]) <= 0.3
            for j in range(N)
        ]
        for i in range(N)
    ]
    return kept, want


@formula("miners", "semi_hard", "5517d2")
def semi_hard() -> Pair:
    def similarity(i: int, j: int) -> float:
        return -distance(A[i], A[j])

    want = np.full((N, N), -1)
    for i in range(N):
        if POSITIVES[i]:
            least = min(similarity(i, p) for p in POSITIVES[i])
            band = [j for j in NEGATIVES[i] if least - 0.8 < similarity(i, j) < least]
            found = top(N, {j: similarity(i, j) for j in band})
            want[i, : len(found)] = found
    with_positive = [i for i in range(N) if POSITIVES[i]]
    found = chosen("semi_hard", LABELLED, N, margin=0.8, fill="none")
    return found[with_positive], want[with_positive]


def keys() -> Any:
    return hash_keys(fresh_seeds(np.random.default_rng(3)), slice(0, N), N, np, None)


@formula("miners", "random", "aa9abf")
def random() -> Pair:
    u = keys()
    want = [top(3, {j: u[i, j] for j in range(N) if j != i}) for i in range(N)]
    return chosen("random", PAIRS, 3), want


@formula("miners", "softmax_weighted", "6d7f54")
def softmax_weighted() -> Pair:
    g = gumbel(keys(), np.float64)
    scores = [{j: cosine(A[i], R[j]) / 0.5 + g[i, j] for j in range(N) if j != i} for i in range(N)]
    return chosen("softmax_weighted", PAIRS, 3, temperature=0.5), [top(3, s) for s in scores]


@formula("miners", "distance_weighted", "63143f")
def distance_weighted() -> Pair:
    d, cutoff = 5, 0.5
    cosines = np.asarray([0.95, 0.8, 0.3, -0.4, -0.9])

    def weight(similarity: float) -> float:
        apart = max(math.sqrt(2 - 2 * similarity), cutoff)  # of unit vectors
        return 1 / (apart ** (d - 2) * (1 - apart**2 / 4) ** ((d - 3) / 2))

    ours = np.exp(build("miners", "distance_weighted", cutoff=cutoff).log_weights(cosines, d))
    theirs = np.asarray([weight(s) for s in cosines])
    return ours / ours[-1], theirs / theirs[-1]  # a draw asks for their ratio alone


# Optimizers -----------------------------------------------------------------------------------


def updates(name: str, **fields: Any) -> Any:
    """Return the parameter after three updates by the gradients A[0], A[1] and A[2]."""
    optimizer = build("optimizers", name, **fields)
    params = {"p": R[0]}
    state = optimizer.init(params)
    for t in range(3):
        params, state = optimizer.update(params, {"p": A[t]}, state)
    return params["p"]


def adaptive(*, decoupled: bool) -> Any:
    p, m, v = R[0], 0.0, 0.0
    for t in (1, 2, 3):
        g = A[t - 1]
        if decoupled:
            p = p * (1 - 0.1 * 0.2)
        else:
            g = g + 0.2 * p
        m, v = 0.8 * m + (1 - 0.8) * g, 0.9 * v + (1 - 0.9) * g**2
        p = p - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 0.01)
    return p


ADAPTIVE = {
    "learning_rate": 0.1, "beta1": 0.8, "beta2": 0.9, "epsilon": 0.01, "weight_decay": 0.2
}  # fmt: skip


@formula("optimizers", "adam", "bd1535")
def adam() -> Pair:
    return updates("adam", **ADAPTIVE), adaptive(decoupled=False)


@formula("optimizers", "adamw", "520117")
def adamw() -> Pair:
    return updates("adamw", **ADAPTIVE), adaptive(decoupled=True)


@formula("optimizers", "sgd", "731c5c")
def sgd() -> Pair:
    p, v = R[0], 0.0
    for t in range(3):
        v = 0.7 * v + (A[t] + 0.2 * p)
        p = p - 0.1 * v
    return updates("sgd", learning_rate=0.1, momentum=0.7, weight_decay=0.2), p


# Schedulers -----------------------------------------------------------------------------------

T = 40


def curve(name: str, /, **fields: Any) -> list[float]:
    schedule = build("schedulers", name, **fields)
    return [schedule.at(t, T) for t in range(T + 1)]


def over(function: Callable[[int], float]) -> list[float]:
    return [function(t) for t in range(T + 1)]


@formula("schedulers", "competence", "f7e108")
def competence() -> Pair:
    want = over(lambda t: (0.2**3 + (0.9**3 - 0.2**3) * t / T) ** (1 / 3))
    return curve("competence", start=0.2, end=0.9, power=3), want


@formula("schedulers", "constant", "02fddd")
def constant() -> Pair:
    return curve("constant", value=0.7), over(lambda t: 0.7)


def half_cosine(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


@formula("schedulers", "cosine", "0afa1e")
def cosine_schedule() -> Pair:
    want = over(lambda t: 0.2 + (0.9 - 0.2) * half_cosine(t / T))
    return curve("cosine", start=0.9, end=0.2), want


@formula("schedulers", "cosine_warm_restarts", "f4d433")
def cosine_warm_restarts() -> Pair:
    def want(t: int) -> float:
        i, before = 0, 0
        while t - before >= round(5 * 2**i):
            before += round(5 * 2**i)
            i += 1
        return 0.1 + (0.9 - 0.1) * 0.5**i * half_cosine((t - before) / round(5 * 2**i))

    fields = {"start": 0.9, "period": 5, "minimum": 0.1, "multiplier": 2, "height": 0.5}
    return curve("cosine_warm_restarts", **fields), over(want)


def stages() -> Any:
    found = [
        Stage(name=name, duration=duration, temperature=temperature)
        for name, duration, temperature in (("a", 7, 0.1), ("b", 9, 0.2), ("c", 50, 0.4))
    ]
    return build("schedulers", "curriculum", stages=tuple(found))


def stage(t: int) -> int:
    return sum(start <= t for start in (0, 7, 7 + 9)) - 1


@formula("schedulers", "curriculum", "6da034")
def curriculum() -> Pair:
    found = stages()
    ours = [found.stages.index(found(Progress(step=t, steps=T))) for t in range(T + 1)]
    return ours, over(stage)


@formula("schedulers", "stage_value", "908aa6")
def stage_value() -> Pair:
    ours = curve("stage_value", curriculum=stages(), name="temperature")
    return ours, over(lambda t: (0.1, 0.2, 0.4)[stage(t)])


@formula("schedulers", "exponential", "945e35")
def exponential() -> Pair:
    ours = curve("exponential", start=0.9, decay=0.5, every=8, end=0.1)
    theirs = over(lambda t: max(0.1, 0.9 * 0.5 ** (t / 8)))
    ours += curve("exponential", start=0.9, end=0.1)
    return ours, theirs + over(lambda t: 0.9 * (0.1 / 0.9) ** (t / T))


@formula("schedulers", "inverse_sqrt", "11da60")
def inverse_sqrt() -> Pair:
    def want(t: int, first: int) -> float:
        return 0.9 * (t + first) / 10 if t < 10 else 0.9 / math.sqrt(1 + (t - 10) / 6)

    fields = {"peak": 0.9, "warmup_steps": 10, "timescale": 6}
    ours = curve("inverse_sqrt", **fields) + curve("inverse_sqrt", **fields, warmup_start="zero")
    return ours, over(lambda t: want(t, 1)) + over(lambda t: want(t, 0))


@formula("schedulers", "joined", "4fedd8")
def joined() -> Pair:
    pieces = tuple(build("schedulers", "step", start=s, every=4) for s in (0.9, 0.6, 0.3))

    def want(t: int) -> float:
        i, b = next((i, b) for i, b in ((2, 25), (1, 10), (0, 0)) if b <= t)
        return float(pieces[i].at(t - b))

    return curve("joined", schedulers=pieces, boundaries=(10, 25)), over(want)


@formula("schedulers", "linear", "0bcaf3")
def linear_schedule() -> Pair:
    ours = curve("linear", start=0.9, end=0.2) + curve("linear", start=0.9, end=0.2, every=7)
    theirs = over(lambda t: 0.9 + (0.2 - 0.9) * t / T)
    stairs = over(lambda t: 0.9 + (0.2 - 0.9) * (t // 7) / (T // 7))
    return ours, theirs + stairs


@formula("schedulers", "one_cycle", "716521")
def one_cycle() -> Pair:
    first, last = 0.9 / 5, 0.9 / 5 / 100

    def want(t: int) -> float:
        if t < 12:
            return 0.9 + (first - 0.9) * half_cosine(t / 12)
        return last + (0.9 - last) * half_cosine((t - 12) / (T - 12))

    def line(t: int) -> float:
        if t < 12:
            return first + (0.9 - first) * t / 12
        return 0.9 + (last - 0.9) * (t - 12) / (T - 12)

    fields = {"peak": 0.9, "warmup_steps": 12, "div_factor": 5, "final_div_factor": 100}
    return curve("one_cycle", **fields) + curve("one_cycle", **fields, anneal="linear"), [
        *over(want),
        *over(line),
    ]


@formula("schedulers", "piecewise", "98cefa")
def piecewise() -> Pair:
    values, boundaries = (0.9, 0.3, 0.6), (10, 30)

    def between(t: int, left: Callable[[float], float]) -> float:
        b = (0, *boundaries)
        i = sum(start <= t for start in boundaries)
        if i == len(boundaries):
            return values[-1]
        x = (t - b[i]) / (b[i + 1] - b[i])
        return values[i + 1] + (values[i] - values[i + 1]) * left(x)

    ours = [
        curve("piecewise", values=values, boundaries=boundaries, interpolate=form)
        for form in ("constant", "linear", "cosine")
    ]
    constant = over(lambda t: values[sum(b <= t for b in boundaries)])
    line = over(lambda t: between(t, lambda x: 1 - x))
    return ours, [constant, line, over(lambda t: between(t, half_cosine))]


@formula("schedulers", "polynomial", "ec3401")
def polynomial() -> Pair:
    want = over(lambda t: 0.2 + (0.9 - 0.2) * (1 - t / T) ** 3)
    return curve("polynomial", start=0.9, end=0.2, power=3), want


@formula("schedulers", "step", "40cc8e")
def step() -> Pair:
    want = over(lambda t: max(0.1, 0.9 * 0.5 ** math.floor(t / 9)))
    return curve("step", start=0.9, every=9, decay=0.5, minimum=0.1), want


def warmup(t: int, first: int) -> float:
    return 0.1 + (0.9 - 0.1) * (t + first) / 8


@formula("schedulers", "warmup_cosine", "e500fc")
def warmup_cosine() -> Pair:
    def want(t: int, first: int) -> float:
        after = 0.05 + (0.9 - 0.05) * (1 + math.cos(math.pi * (t - 8) / (T - 8))) / 2
        return warmup(t, first) if t < 8 else after

    fields = {"peak": 0.9, "warmup_steps": 8, "minimum": 0.05, "start": 0.1}
    ours = curve("warmup_cosine", **fields) + curve("warmup_cosine", **fields, warmup_start="zero")
    return ours, over(lambda t: want(t, 1)) + over(lambda t: want(t, 0))


@formula("schedulers", "warmup_stable_decay", "0f2482")
def warmup_stable_decay() -> Pair:
    left: dict[str, Callable[[float], float]] = {
        "linear": lambda x: 1 - x,
        "cosine": half_cosine,
        "sqrt": lambda x: 1 - math.sqrt(x),
    }
    fields = {"peak": 0.9, "warmup_steps": 8, "decay_steps": 16, "minimum": 0.05, "start": 0.1}
    ours, theirs = [], []
    for name, function in left.items():
        ours += curve("warmup_stable_decay", **fields, decay=name)
        for t in range(T + 1):
            fall = 0.05 + (0.9 - 0.05) * function(max(0, t - T + 16) / 16)
            theirs.append(warmup(t, 1) if t < 8 else 0.9 if t < T - 16 else fall)
    return ours, theirs


# Regularizers ---------------------------------------------------------------------------------


def term(regularizer: Any, arrays: Any, **given: Any) -> Any:
    """Return the value and the entries of the one gradient, in one array."""
    found = regularizer.value_and_grad(arrays, **given)
    (gradient,) = found.grads.values()
    return np.asarray([float(found.value), *np.ravel(gradient)])


@formula("regularizers", "ewc", "f006d9")
def ewc() -> Pair:
    ours = build("regularizers", "ewc", strength=3.0)
    theta, tasks = R[5], [(A[k], A[k + 2] ** 2) for k in (0, 1)]
    for start, importance in tasks:
        ours = ours.learned({"p": start}, {"p": importance})
    want = 3 / 2 * sum(f[p] * (theta[p] - s[p]) ** 2 for s, f in tasks for p in range(4))
    gradient = 3 * sum(f * (theta - s) for s, f in tasks)
    return term(ours, {"p": theta}), [want, *gradient]


@formula("regularizers", "graph_laplacian", "5cc364")
def graph_laplacian() -> Pair:
    edges, weights = [(0, 1), (1, 3), (2, 5)], [1.0, 0.5, 2.0]
    ours = build("regularizers", "graph_laplacian", strength=3.0, edges=edges, weights=weights)
    laplacian = np.zeros((N, N))
    for (i, j), w in zip(edges, weights, strict=True):
        laplacian[[i, j], [i, j]] += w
        laplacian[[i, j], [j, i]] -= w
    want = 3 * sum(w * distance(A[i], A[j]) ** 2 for (i, j), w in zip(edges, weights, strict=True))
    np.testing.assert_allclose(want, 3 * np.trace(A.T @ laplacian @ A))
    ids = {"anchors": np.arange(N)}
    return term(ours, {"anchors": A}, ids=ids), [want, *np.ravel(2 * 3 * laplacian @ A)]


@formula("regularizers", "l2", "f9eb15")
def l2() -> Pair:
    ours = build("regularizers", "l2", strength=3.0).begin({"p": R[0]})
    want = 3 / 2 * sum((R[1][c] - R[0][c]) ** 2 for c in range(4))
    return term(ours, {"p": R[1]}), [want, *(3 * (R[1] - R[0]))]


@formula("regularizers", "variance_of_variances", "7dfd56")
def variance_of_variances() -> Pair:
    v = [mean((A[i][d] - mean(A[:, d])) ** 2 for i in range(N)) for d in range(4)]
    want = 3 * mean((v[d] - mean(v)) ** 2 for d in range(4))
    gradient = [
        3 * 4 / (N * 4) * (v[d] - mean(v)) * (A[i][d] - mean(A[:, d]))
        for i in range(N)
        for d in range(4)
    ]
    ours = build("regularizers", "variance_of_variances", strength=3.0)
    return term(ours, {"anchors": A}), [want, *gradient]


# Adapters -------------------------------------------------------------------------------------


def drawn(adapter: Any) -> dict[str, Any]:
    """Return parameters of the shapes of an adapter's, none of them at its start."""
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=p.shape) for name, p in adapter.init(rng, 4).items()}


def moved(adapter: Any, params: Any) -> Any:
    return adapter.forward(params, A)[0]


@formula("adapters", "linear", "56cfa9")
def linear() -> Pair:
    adapter = build("adapters", "linear", bias=True)
    params = drawn(adapter)
    return moved(adapter, params), A @ params["W"] + params["b"]


@formula("adapters", "low_rank", "9289bb")
def low_rank() -> Pair:
    adapter = build("adapters", "low_rank", rank=2, alpha=6.0)
    params = drawn(adapter)
    assert not np.any(adapter.init(np.random.default_rng(0), 4)["B"])
    return moved(adapter, params), A + 6 / 2 * (A @ params["A"]) @ params["B"]


@formula("adapters", "chain", "a05b00")
def chain() -> Pair:
    f1, f2 = build("adapters", "low_rank", rank=2), build("adapters", "linear")
    adapter = build("adapters", "chain", adapters={"first": f1, "second": f2})
    params = drawn(adapter)

    def part(name: str) -> dict[str, Any]:
        return {k.removeprefix(name): v for k, v in params.items() if k.startswith(name)}

    return moved(adapter, params), f2.forward(part("second."), moved(f1, part("first.")))[0]


@formula("adapters", "micro_lora", "a658dd")
def micro_lora() -> Pair:
    adapter = build("adapters", "micro_lora", rank=2, alpha=6.0, modules=("q", "v"))
    params, y = drawn(adapter), A
    for name in ("q", "v"):
        assert not np.any(adapter.init(np.random.default_rng(0), 4)[f"{name}.B"])
        y = y + 6 / 2 * (y @ params[f"{name}.A"]) @ params[f"{name}.B"]
    return moved(adapter, params), y


@formula("adapters", "recomputed", "bae9f7")
def recomputed() -> Pair:
    inner = build("adapters", "micro_lora", rank=2)
    adapter = build("adapters", "recomputed", adapter=inner)
    params = drawn(adapter)
    return moved(adapter, params), moved(inner, params)


@formula("adapters", "procrustes", "36b4d1")
def procrustes() -> Pair:
    adapter = build("adapters", "procrustes")
    q, d = A - A.mean(axis=0), R - R.mean(axis=0)
    u, _, vt = np.linalg.svd(q.T @ d)
    return moved(adapter, adapter.solve(A, R)), q @ (u @ vt)


@formula("adapters", "whitening", "91dfaa")
def whitening() -> Pair:
    adapter = build("adapters", "whitening", shrinkage=0.3)
    both = np.concat([A, R])
    s, v = np.linalg.eigh(np.cov(both.T, bias=True))
    w = v @ np.diag((s / s.mean() + 0.3) ** -0.5) @ v.T
    return moved(adapter, adapter.solve(A, R)), (A - both.mean(axis=0)) @ w
