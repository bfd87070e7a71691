"""Metric learning with labels: scikit-learn's handwritten digits, in seconds.

1,797 images of 8 x 8 pixels, which are the embeddings, with ten classes. A linear map is trained by
the supervised contrastive loss, and three questions are asked of rows that it never saw: is the
nearest neighbour of the right class, are the ten nearest, are all of the class near? Then the same
map is trained on the digits 0 to 6 and asked about 7, 8 and 9.

    python examples/digits.py
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.datasets import load_digits

import coreframe as cf
from coreframe import config
from coreframe.config import RunConfig
from coreframe.experiment import experiment, fit_arguments

METRICS = ("accuracy@1", "precision@10", "r_precision")
SETTINGS = """\
[adapter]
name = "linear"

[[losses]]
name = "sup_con"
preset = "paper"

[optimizer]
name = "adamw"
learning_rate = { scheduler = "warmup_cosine", peak = 3e-3 }

[train]
epochs = 20
batch_size = 256
side = "both"

[gate]
metric = "r_precision"
metrics = ["accuracy@1", "precision@10"]

[curve]
enabled = "never"
"""


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (1797, 64) and which digit each row is (1797,)."""
    pixels, digit = load_digits(return_X_y=True)
    return pixels.astype(np.float32), digit


def seen_classes(settings: RunConfig) -> bool:
    """Train on some rows of all digits, ask about others; return what the gate says."""
    train, dev, test = cf.Pairs.labelled(*digits()).split(dev=0.2, test=0.3, seed=42)
    outcome = experiment(train, dev, test, settings)
    print(f"{len(test)} unseen rows{'':16}" + "".join(f"{metric:>14}" for metric in METRICS))
    for name, candidate in outcome.candidates.items():
        mean = candidate.test.mean()
        print(f"  {name:28}" + "".join(f"{mean[metric]:14.3f}" for metric in METRICS))
    for metric in METRICS:
        gain = outcome.comparison.gains[metric]
        verdict = "better" if outcome.comparison.better(metric) else "no proof of gain"
        interval = f"{gain.gain:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        print(f"  {metric:28}{interval:>24}   {verdict}")
    print(f"the gate: {outcome.gate.reason}")
    return outcome.gate.passed


def unseen_classes(settings: RunConfig, held_out: int = 7) -> cf.Comparison:
    """Train on the digits below ``held_out``; compare on the others."""
    pixels, digit = digits()
    known = digit < held_out
    train, dev, _ = cf.Pairs.labelled(pixels[known], digit[known]).split(dev=0.2, test=0.1, seed=42)
    run = cf.fit(train, dev, **fit_arguments(settings))
    test = cf.Pairs.labelled(pixels[~known], digit[~known])
    return cf.compare(run.adapter, test, metrics=METRICS)


def main() -> int:
    settings = config.read(default=SETTINGS)
    passed = seen_classes(settings)
    print("\ntrained on 0 to 6, asked about 7, 8 and 9")
    print(unseen_classes(settings))
    return 0 if passed else 3


if __name__ == "__main__":
    sys.exit(main())
