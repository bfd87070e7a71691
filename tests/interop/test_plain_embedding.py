"""What a program that embeds coreframe relies on: nothing is global, and copies work anywhere.

That every shipped component is pickled and copied is a promise of the kit: test_shipped.py.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from coreframe import Pairs, build, fit

ROOT = Path(__file__).parents[2]
ROWS, WIDTH = 200, 16
LARGE = 1500  # rows whose similarities are several blocks, so that the pool is used
BUDGET = 2**20


def fresh(code: str, *arguments: str) -> str:
    """Run code in a fresh Python, and return what it prints; a warning is an error."""
    command = [sys.executable, "-W", "error", *arguments, "-c", dedent(code)]
    env = {name: x for name, x in os.environ.items() if not name.startswith("COREFRAME_")}
    ran = subprocess.run(command, text=True, capture_output=True, env=env, cwd=ROOT / "tests")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


MODULES = sorted(
    f"coreframe.{path.stem}" for path in (ROOT / "coreframe").glob("*.py") if path.stem[0] != "_"
)


def test_an_import_leaves_the_process_as_it_is() -> None:
    """No environment is read, and there is no thread, handler, filter, seed or print of ours."""
    code = f"""
    import importlib, json, logging, os, random, signal, sys, threading, warnings

    import click, numpy, rich  # not ours: what they do at import is theirs

    reads = []
    environ = type(os.environ)

    def reading(self, key, original=environ.__getitem__):
        frame = sys._getframe(1)
        while frame and frame.f_code.co_filename.endswith(("os.py", "_collections_abc.py")):
            frame = frame.f_back
        if frame and f"{{os.sep}}coreframe{{os.sep}}" in frame.f_code.co_filename:
            reads.append((key, frame.f_code.co_filename))
        return original(self, key)

    def state():
        root = logging.getLogger()
        handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
        return [list(root.handlers), root.level, list(warnings.filters), handlers, dict(os.environ),
                random.getstate(), str(numpy.random.get_state()), numpy.geterr(), os.getcwd(),
                [t.name for t in threading.enumerate()], sys.excepthook, sys.stdout, sys.stderr]

    environ.__getitem__ = reading
    before = state()
    for name in {MODULES!r}:
        importlib.import_module(name)
    after = state()
    environ.__getitem__ = reading.__defaults__[0]
    print(reads, [i for i, (x, y) in enumerate(zip(before, after)) if x != y])
    """
    assert fresh(code) == "[] []"


def pairs(seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, WIDTH))
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    return Pairs(x.astype(np.float32), (x @ turn).astype(np.float32))


def trained(seed: int) -> dict[str, Any]:
    """Train with all that draws: shuffling, a miner, noise of an adapter's start."""
    train, dev, _ = pairs(seed).split(dev=0.2, test=0.2, seed=seed)
    run = fit(train, dev, adapter="low_rank", miner="random", epochs=2, batch_size=32, seed=seed)
    return {name: np.asarray(x) for name, x in run.params.items()}


def same(x: dict[str, Any], y: dict[str, Any]) -> bool:
    return x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x)


def test_several_trainers_in_threads_do_not_touch_each_other() -> None:
    seeds = [0, 1, 2, 0]
    alone = [trained(seed) for seed in seeds]
    assert same(alone[0], alone[3])
    assert not same(alone[0], alone[1])
    with ThreadPoolExecutor(len(seeds)) as pool:
        together = list(pool.map(trained, seeds))
    assert all(map(same, alone, together))


def test_a_run_touches_no_global_generator() -> None:
    before = pickle.dumps(np.random.get_state()), random.getstate()
    trained(3)
    assert (pickle.dumps(np.random.get_state()), random.getstate()) == before


# Processes ----------------------------------------------------------------------------------


def value_of(loss: Any) -> float:
    """Call a loss on a batch of several blocks, with threads."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, LARGE, 32)).astype(np.float32)
    return float(loss(x, y).value)


def test_components_go_to_spawned_workers() -> None:
    losses = [build("losses", "info_nce", memory_budget=BUDGET, temperature=t) for t in (0.1, 0.5)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        assert list(pool.map(value_of, losses)) == list(map(value_of, losses))


def test_a_forked_child_computes_after_the_pool_was_used() -> None:
    """A thread does not come along in a fork; the pool of the parent must not be waited for."""
    code = f"""
    import multiprocessing, os, sys
    sys.path.insert(0, "interop")
    os.environ["COREFRAME_THREADS"] = "2"
    from test_plain_embedding import BUDGET, build, trained, same, value_of

    loss = build("losses", "info_nce", memory_budget=BUDGET)
    expected, params = value_of(loss), trained(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(value_of, [loss] * 3).get(60) == [expected] * 3
        assert same(pool.apply_async(trained, (0,)).get(60), params)
    assert value_of(loss) == expected
    print("done {LARGE}")
    """
    assert fresh(code) == f"done {LARGE}"


def test_joblib_runs_them() -> None:
    joblib = pytest.importorskip("joblib")
    loss = build("losses", "triplet", margin=0.3)
    calls = (joblib.delayed(value_of)(loss) for _ in range(3))
    assert joblib.Parallel(n_jobs=2, backend="threading")(calls) == [value_of(loss)] * 3
    code = """
    import sys
    sys.path.insert(0, "interop")
    import joblib
    from test_plain_embedding import build, value_of

    loss = build("losses", "triplet", margin=0.3)
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(value_of)(loss) for _ in range(3))
    assert found == [value_of(loss)] * 3
    print("done")
    """
    assert fresh(code) == "done"
