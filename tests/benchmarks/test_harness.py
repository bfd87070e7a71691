"""The harness of the benchmarks: what it counts, compares and writes is right."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import check, exact, floors, measure, run
from benchmarks.case import COMPILED, US, Case, Compare, LeftOut, Side
from benchmarks.cases import CASES, growth
from benchmarks.data import classes, loss_bytes, pairs


def case_of(*sides: Side, **options) -> Case:
    return Case("a", "work", pairs(32, 8), pairs(8, 8), sides, (), **options)


def side(name: str, call) -> Side:
    return Side(name, lambda inputs: lambda: call(inputs))


# Timing ---------------------------------------------------------------------------------------


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAUSE", 0)
    order: list[str] = []
    case = case_of(*(side(n, lambda _, n=n: order.append(n)) for n in "xyz"), rounds=3, calls=2)
    times, _, left_out = measure.time_case(case)
    assert "".join(order) == "xyz" + "xxyyzz" * 3  # a warm-up, then rounds
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys("xyz", 3)
    assert left_out == {}


def test_a_ratio_is_the_median_of_neighbours_and_not_that_of_medians() -> None:
    times = {"coreframe": [1.0, 10.0, 30.0], "peer": [2.0, 10.0, 10.0], "less": [0.5, 5.0, 5.0]}
    assert measure.ratio(times, "coreframe", "peer", None) == 1.0
    assert measure.ratio(times, "coreframe", "peer", "less") == 0.5


def test_the_floor_is_the_faster_one() -> None:
    times = {US: [6.0, 6.0], "slow": [4.0, 4.0], "fast": [2.0, 3.0]}
    row = run.compared(Compare(("slow", "fast", "absent")), times)
    assert (row["to"], row["floor"], row["ratio"]) == ("fast", True, 2.5)
    assert run.compared(Compare("absent"), times) is None


def test_what_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAUSE", 0)

    def refuse(inputs):
        raise LeftOut("no compiler")

    absent = Side("absent", refuse, needs=("no_such_library",))
    broken = side("broken", lambda inputs: 1 / 0)
    fine = side("fine", len)
    case = case_of(fine, absent, Side("refused", refuse), broken, rounds=1)
    times, _, left_out = measure.time_case(case)
    assert list(times) == ["fine"]
    assert left_out == {
        "absent": "no_such_library is not installed",
        "refused": "no compiler",
        "broken": "ZeroDivisionError: division by zero",
    }
    ours = case_of(side(US, lambda inputs: 1 / 0), rounds=1)
    with pytest.raises(ZeroDivisionError):
        measure.time_case(ours)


def test_a_side_that_does_other_work_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAUSE", 0)
    near = Side("near", lambda i: lambda: i["a"] * np.float32(1.001), lambda r: {"a": r})
    far = Side("far", lambda i: lambda: i["a"] * 2, lambda r: {"a": r})
    case = case_of(near, far, exact=lambda i: {"a": i["a"].astype(np.float64)}, rounds=1)
    times, errors, left_out = measure.time_case(case)
    assert errors == {"near": pytest.approx(1e-3, rel=1e-3)}
    assert list(times) == ["near"]
    assert "does other work" in left_out["far"]


def test_the_environment_holds_around_the_calls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.delenv("SOME_SWITCH", raising=False)
    seen: list[str | None] = []

    def build(inputs):
        return lambda: seen.append(os.environ.get("SOME_SWITCH"))

    on = Side("on", build, environment={"SOME_SWITCH": "1"})
    measure.time_case(case_of(on, Side("off", build), rounds=1))
    assert seen == ["1", None, "1", None]
    assert "SOME_SWITCH" not in os.environ


# Memory ---------------------------------------------------------------------------------------

MEMORY = """
import numpy as np
from benchmarks import measure
from benchmarks.case import Case, Side
MIB = 2 ** 20
def make():
    return {"a": np.ones((8, MIB), np.float32)}
def work(inputs):
    def run():
        for _ in range(3):  # one after the other: 48 MiB at most
            x = np.ones(48 * MIB, np.int8)
            del x
        return inputs["a"] + 1  # 32 MiB that are deducted, and at another time
    return run
side = Side("x", work)
case = Case("a", "", make, lambda: {"a": np.ones((1, 8))}, (side,), ())
print(measure.extra_memory(case, side) / MIB)
import dataclasses
print(measure.extra_memory(dataclasses.replace(case, deducted=lambda i: 40 * MIB), side) / MIB)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark of Linux")
def test_extra_memory_is_the_peak_less_what_was_held() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, cwd=run.ROOT, check=True
    )
    plain, less = map(float, ran.stdout.split())
    assert plain == pytest.approx(48, abs=4)
    assert less == pytest.approx(8, abs=4)


def test_losses_have_gradients_and_three_arrays_deducted() -> None:
    assert loss_bytes(pairs(10, 4)()) == (2 + 3) * 10 * 4 * 4
    assert loss_bytes(classes(12, 4)()) == (1 + 3) * 12 * 4 * 4


# What is computed -----------------------------------------------------------------------------


def differences(value, x: np.ndarray) -> np.ndarray:
    found = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += 1e-6
        down[i] -= 1e-6
        found[i] = (value(up) - value(down)) / 2e-6
    return found


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def info_nce_value(a: np.ndarray, b: np.ndarray, t: float, symmetric: bool) -> float:
    z = unit(a) @ unit(b).T / t
    ways = [np.log(np.exp(w).sum(1)) - np.diag(w) for w in ([z, z.T] if symmetric else [z])]
    return float(np.mean(ways))


@pytest.mark.parametrize("symmetric", [False, True])
def test_exact_info_nce(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "ROWS", 4)
    inputs = {k: v.astype(np.float64) for k, v in pairs(6, 3)().items()}
    found = exact.info_nce(0.5, symmetric)(inputs)
    a, b = inputs["a"], inputs["b"]
    want_a = differences(lambda x: info_nce_value(x, b, 0.5, symmetric), a)
    want_b = differences(lambda x: info_nce_value(a, x, 0.5, symmetric), b)
    np.testing.assert_allclose(found["a"], want_a, atol=1e-7)
    np.testing.assert_allclose(found["b"], want_b, atol=1e-7)
    if not symmetric:
        first = exact.info_nce_rows(0.5, 3)(inputs)
        np.testing.assert_allclose(first["a"], want_a[:3], atol=1e-7)


def labelled_value(kind: str, x: np.ndarray, labels: np.ndarray) -> float:
    """The mean over anchors, by loops over pairs and triplets as the papers write them."""
    n, u = len(x), unit(x)
    terms: list[float] = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        same = [j for j in others if labels[j] == labels[i]]
        not_same = [j for j in others if labels[j] != labels[i]]
        s = u @ u[i] / 0.5
        d = np.linalg.norm(x - x[i], axis=1)
        if kind == "sup_con":
            total = math.log(sum(math.exp(s[j]) for j in others))
            terms.append(float(np.mean([total - s[p] for p in same])))
        elif kind == "nt_xent":
            low = sum(math.exp(s[j]) for j in not_same)
            terms.append(float(np.mean([math.log(low + math.exp(s[p])) - s[p] for p in same])))
        elif kind == "batch_hard":
            hardest = max(d[p] for p in same) - min(d[j] for j in not_same)
            terms.append(max(0.0, hardest + 0.5))
        else:
            each = [max(0.0, d[p] - d[j] + 0.5) for p, j in itertools.product(same, not_same)]
            terms.append(float(np.mean(each)))
    return float(np.mean(terms))


@pytest.mark.parametrize("kind", ["sup_con", "nt_xent", "batch_hard", "all_triplets"])
def test_exact_labelled(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "ROWS", 5)
    inputs = dict(classes(12, 3)())
    inputs["x"] = inputs["x"].astype(np.float64)
    found = getattr(exact, kind)(0.5)(inputs)["x"]
    want = differences(lambda x: labelled_value(kind, x, inputs["labels"]), inputs["x"])
    assert np.max(np.abs(want)) > 1e-3
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_errors() -> None:
    want = {"a": np.array([[1.0, -2.0]]), "b": np.array([[4.0]])}
    found = {"a": np.array([[1.0, -2.2], [9, 9]]), "b": np.array([[4.2]])}
    assert exact.largest_error(found, want) == pytest.approx(0.1)
    assert exact.relative_distance(found, want) == pytest.approx(0.2 / math.sqrt(5))
    assert exact.share_of_others({"i": np.array([[1, 2], [3, 5]])}, {"i": np.array([[1, 2]])}) == 0


def test_the_floor_in_blocks_makes_the_three_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "ROWS", 8)
    monkeypatch.setenv("COREFRAME_THREADS", "2")
    made: list[tuple[int, int]] = []
    matmul = np.matmul

    def spy(a, b, **options):
        made.append(a.shape + b.shape[1:])
        return matmul(a, b, **options)

    monkeypatch.setattr(np, "matmul", spy)
    floors.blocks(pairs(20, 4)())()
    of = {4: [(8, 4, 20), (8, 20, 4), (20, 8, 4)]}
    whole = [shape for shape in of[4] for _ in range(2)]
    assert sorted(made) == sorted([*whole, (4, 4, 20), (4, 20, 4), (20, 4, 4)])


# The cases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CASES, *check.CASES])
def test_cases_name_their_sides(name: str) -> None:
    case = {**CASES, **check.CASES}[name](name not in growth.GROUPS)
    assert case.name == name
    sides = [side.name for side in case.sides]
    assert len(set(sides)) == len(sides)
    if name in check.CASES:
        return
    for row in case.rows:
        wanted = {row.ours, *([row.to] if isinstance(row.to, str) else row.to)}
        wanted |= {row.minus} if row.minus else set()
        assert wanted <= {*sides, *case.left_out}, row


def test_every_bound_is_of_a_case_that_has_its_sides() -> None:
    for bound in check.BOUNDS:
        sides = {side.name for side in check.CASES[bound.case](True).sides}
        assert {bound.ours, *([bound.to] if isinstance(bound.to, str) else bound.to)} <= sides


OURS = [name for name in CASES if "/" not in name]


@pytest.mark.parametrize("name", OURS)
def test_our_sides_run_on_the_small_arrays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name](True)
    inputs = case.small()
    want = case.exact(inputs) if case.exact else {}
    for ours in case.sides:
        if ours.name.startswith("coreframe") and ours.name != COMPILED:
            with measure.environment(ours.environment):
                result = ours.build(inputs)()
            if want and ours.outputs:
                found = ours.outputs(result)
                assert measure.relative_distance(found, want) < 1e-4


# The check ------------------------------------------------------------------------------------


def checked(times, bound: float, memory: float = 0.0) -> tuple[int, list[str], int]:
    said: list[str] = []
    asked = itertools.count()

    def time_of(name: str):
        return times[min(next(asked), len(times) - 1)]

    bounds = (check.Bound("check/x", bound, "peer"), check.Bound("check/x", 5.0, memory=True))
    code = check.run(time_of, lambda name: memory, said.append, bounds)
    return code, said, next(asked)


def test_the_check_tries_thrice_and_says_what_is_above() -> None:
    slow, fast = {US: [3.0], "peer": [1.0]}, {US: [1.0], "peer": [1.0]}
    code, said, asked = checked([slow], 2.0)
    assert (code, asked) == (1, 3)
    assert "ABOVE: check/x: coreframe 3.00 x peer, at most 2 (try 3)" in said
    assert said[-1] == "1 of 2 bounds are exceeded"
    assert checked([slow, slow, fast], 2.0)[::2] == (0, 3)
    assert checked([fast], 2.0)[::2] == (0, 1)
    code, said, asked = checked([fast], 2.0, memory=6.0)
    assert (code, asked) == (1, 1)
    assert any("6.00 MiB of extra memory, at most 5 (try 3)" in line for line in said)


def test_the_check_without_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.util, "find_spec", lambda name: None)
    bounds = (check.Bound("check/x", 2.0, check.peers.TORCH),)
    said: list[str] = []
    assert check.run(lambda name: {}, lambda name: 0.0, said.append, bounds) == 0
    assert said == [
        "left out: check/x beside torch eager: torch is not installed",
        "every bound holds",
    ]


def test_a_process_that_ends_badly_is_no_result() -> None:
    assert "no_such_case" in run.child(1, "time", "no_such_case")["failed"]
