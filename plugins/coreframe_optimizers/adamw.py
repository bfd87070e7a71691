"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array
from coreframe.component import Preset
from coreframe.optimizer import Optimizer, Slots
from coreframe.scheduler import Scheduler, plain
from coreframe_optimizers.adam import adam_move


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay.

        p = p (1 - learning_rate weight_decay)
        m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
        p = p - learning_rate m^ / (sqrt(v^) + epsilon),   m^ = m / (1 - beta1^t), v^ alike

    t counts the updates of this parameter. Equals ``torch.optim.AdamW(lr, (beta1, beta2),
    eps=epsilon, weight_decay=...)``: epsilon stands outside the root, after the bias correction.
    Keras and thinc place it otherwise.

    Args:
        learning_rate: >= 0. Default: 1e-3 (the paper of Adam).
        beta1, beta2: in [0, 1). Default: 0.9 and 0.999 (the paper of Adam).
        epsilon: > 0. Default: 1e-8 (the paper of Adam).
        weight_decay: >= 0, a share a step of learning_rate. Default: 0.01 (PyTorch; optax has
            1e-4, Keras 4e-3).

    Shapes: parameters and gradients of any shape; two moments of that shape and one number each.

    Edges: with a gradient of zero only the decay acts. The first step is learning_rate in size,
        whatever the gradient's. The trainer leaves parameters of one dimension without decay.

    Cost: about ten passes over the parameter, which on NumPy stay in the cache (one with the extra
        ``compiled``); memory of two.

    References: Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2; Kingma & Ba 2015,
        arXiv 1412.6980.

    >>> import numpy as np
    >>> params, optimizer = {"W": np.ones(2)}, AdamW(learning_rate=0.1, weight_decay=0.5)
    >>> new, state = optimizer.update(params, {"W": np.array([0.0, 7.0])}, optimizer.init(params))
    >>> new["W"].round(6).tolist()
    [0.95, 0.85]
    """

    beta1: float | Scheduler = 0.9
    beta2: float | Scheduler = 0.999
    epsilon: float | Scheduler = 1e-8
    weight_decay: float | Scheduler = 0.01

    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")
    scalars: ClassVar[tuple[str, ...]] = ("updates",)

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.optim.AdamW",
            fields={
                "learning_rate": 0.001,
                "beta1": 0.9,
                "beta2": 0.999,
                "epsilon": 1e-08,
                "weight_decay": 0.01,
            },
            arguments={
                "lr": 0.001,
                "betas": (0.9, 0.999),
                "eps": 1e-08,
                "weight_decay": 0.01,
                "amsgrad": False,
            },
            version="torch 2.13.0",
        ),
        "optax": Preset(
            equals="optax.adamw",
            fields={"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-08, "weight_decay": 0.0001},
            arguments={
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-08,
                "eps_root": 0.0,
                "weight_decay": 0.0001,
                "nesterov": False,
            },
            version="optax 0.2.8",
            note="The learning rate has no default there.",
        ),
        "transformers": Preset(
            equals="transformers.TrainingArguments",
            fields={
                "learning_rate": 5e-05,
                "beta1": 0.9,
                "beta2": 0.999,
                "epsilon": 1e-08,
                "weight_decay": 0.0,
            },
            arguments={
                "learning_rate": 5e-05,
                "adam_beta1": 0.9,
                "adam_beta2": 0.999,
                "adam_epsilon": 1e-08,
                "weight_decay": 0.0,
            },
            version="transformers 5.24.0",
            note="Its trainer also lets the learning rate fall along a line and clips "
            "gradients at norm 1.",
        ),
        "sentence-transformers": Preset(
            equals="sentence_transformers.SentenceTransformerTrainingArguments",
            fields={
                "learning_rate": 5e-05,
                "beta1": 0.9,
                "beta2": 0.999,
                "epsilon": 1e-08,
                "weight_decay": 0.0,
            },
            arguments={
                "learning_rate": 5e-05,
                "adam_beta1": 0.9,
                "adam_beta2": 0.999,
                "adam_epsilon": 1e-08,
                "weight_decay": 0.0,
            },
            version="sentence-transformers 6.2.0",
            note="Those of transformers.",
        ),
        "open_clip": Preset(
            equals='open_clip_train.params.get_default_params("ViT-B-32")',
            fields={
                "learning_rate": 0.0005,
                "beta1": 0.9,
                "beta2": 0.98,
                "epsilon": 1e-06,
                "weight_decay": 0.2,
            },
            version="open_clip_torch 3.3.0",
            note="With the weight decay of its command line, which leaves parameters of one "
            "dimension without decay.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "beta1", minimum=0, below=1)
        checks.number(self, "beta2", minimum=0, below=1)
        checks.number(self, "epsilon", above=0)
        checks.number(self, "weight_decay", minimum=0)

    def step(
        self, parameter: Array, gradient: Array, slots: Slots, count: int
    ) -> tuple[Array, Slots]:
        learning_rate = plain(self.learning_rate)
        move, slots = adam_move(
            gradient, slots, plain(self.beta1), plain(self.beta2), plain(self.epsilon)
        )
        decayed = parameter * (1 - learning_rate * plain(self.weight_decay))
        return decayed - learning_rate * move, slots
