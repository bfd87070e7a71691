"""How often does the gate promote what cannot help? Data without anything to learn, many seeds.

    python -m benchmarks.gate                  the figures of docs/continual.md
    python -m benchmarks.gate --seeds 20 --kinds noise

Each seed draws data anew, trains, compares all candidates on dev, and asks the gate. A promotion is
false by construction:

    noise        queries that have nothing to do with their documents
    no map helps queries are documents plus isotropic noise: no matrix finds more than the base
    saturated    the base finds nearly everything
    duplicated   every question is asked ten times, in slightly other words
    few          as "no map helps", with some thirty test queries
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from coreframe import config
from coreframe.data.pairs import Pairs
from coreframe.experiment import experiment

WIDTH = 16


def _pairs(queries: np.ndarray, documents: np.ndarray, **options: object) -> Pairs:
    return Pairs(queries.astype(np.float32), documents.astype(np.float32), **options)


def noise(rng: np.random.Generator) -> Pairs:
    x = rng.standard_normal((2, 300, WIDTH))
    return _pairs(x[0], x[1])


def no_map_helps(rng: np.random.Generator, count: int = 300) -> Pairs:
    documents = rng.standard_normal((count, WIDTH))
    return _pairs(documents + 1.2 * rng.standard_normal(documents.shape), documents)


def saturated(rng: np.random.Generator) -> Pairs:
    documents = rng.standard_normal((300, WIDTH))
    return _pairs(documents + 0.3 * rng.standard_normal(documents.shape), documents)


def duplicated(rng: np.random.Generator) -> Pairs:
    documents = rng.standard_normal((100, WIDTH))
    asked = documents + 1.2 * rng.standard_normal(documents.shape)
    queries = np.repeat(asked, 10, axis=0) + 0.05 * rng.standard_normal((1000, WIDTH))
    return _pairs(queries, documents, relevant=np.repeat(np.arange(100), 10))


def few(rng: np.random.Generator) -> Pairs:
    return no_map_helps(rng, 100)


KINDS: dict[str, Callable[[np.random.Generator], Pairs]] = {
    "noise": noise,
    "no map helps": no_map_helps,
    "saturated": saturated,
    "duplicated": duplicated,
    "few": few,
}


def promotions(kind: str, seeds: range, *assignments: str) -> tuple[int, Counter[str]]:
    """Return how many seeds were promoted, and the first words of the other hints."""
    settings = config.read(
        None,
        ["train.epochs=5", "train.batch_size=64", "curve.enabled=never", *assignments],
    )
    promoted, hints = 0, Counter[str]()
    for seed in seeds:
        pairs = KINDS[kind](np.random.default_rng(seed))
        outcome = experiment(*pairs.split(0.2, 0.3, seed=seed), settings)
        promoted += outcome.gate.passed
        hints[" ".join(outcome.gate.hint.split()[:4])] += 1
    return promoted, hints


def upper(count: int, of: int) -> float:
    """Return the upper end of a 95% interval of a share (Wilson 1927)."""
    z, p = 1.96, count / of
    middle = p + z * z / (2 * of)
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (middle + half) / (1 + z * z / of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    print(f"{'data':14}{'seeds':>7}{'promoted':>10}{'share':>8}{'at most':>9}   most often said")
    for kind in options.kinds:
        count, hints = promotions(kind, range(options.seeds))
        share, said = count / options.seeds, hints.most_common(1)[0][0]
        most = upper(count, options.seeds)
        print(
            f"{kind:14}{options.seeds:7}{count:10}{share:8.1%}{most:9.1%}   {said} ...", flush=True
        )


if __name__ == "__main__":
    main()
