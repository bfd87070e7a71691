"""The usage example of the Rust seed, line for line.

The Rust training library showed its parts together in one loop: an InfoNCE loss, AdamW, a linear
curriculum over the number of negatives and the temperature, and semi-hard mining. There the loss
gave the gradient of the anchor; here an adapter is trained with it, on anchors that are a rotated
and noisy copy of their positives.

    python examples/seed_rust.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from coreframe import Batch, Listed, Progress, build
from coreframe.random import stream
from coreframe_schedulers.curriculum import Curriculum

DIMENSIONS, CANDIDATES, BATCH_SIZE, SEED = 32, 256, 50, 0


def main() -> dict[str, Any]:
    """Run the loop and return what it saw: losses and gradient norms by step."""
    # let loss = InfoNCELoss::new(0.07);
    loss = build("losses", "info_nce", temperature=0.07)
    # let mut optimizer = AdamW::new(dim, 0.001, 0.01);
    optimizer = build("optimizers", "adamw", learning_rate=0.001, weight_decay=0.01)
    # let mut curriculum = CurriculumScheduler::linear(3, 1000, 5, 20, 1.0, 0.1);
    curriculum = Curriculum.linear(
        stages=3, samples=1000, negatives=(5, 20), temperature=(1.0, 0.1)
    )
    # let miner = HardNegativeMiner::semi_hard(0.2);
    miner = build("miners", "semi_hard", margin=0.2)

    data = stream(SEED, "data")
    documents = data.standard_normal((CANDIDATES, DIMENSIONS))
    turn = np.linalg.qr(data.standard_normal((DIMENSIONS, DIMENSIONS)))[0]
    queries = documents @ turn + 0.1 * data.standard_normal(documents.shape)

    adapter = build("adapters", "linear")
    params = {"W": np.eye(DIMENSIONS)}
    state = optimizer.init(params)
    progress = Progress()
    seen: dict[str, Any] = {"loss": [], "norm": [], "negatives": [], "temperature": []}

    # for each step: let params = curriculum.current_params();
    while not curriculum.is_complete(progress):
        stage = curriculum(progress)
        rows = stream(SEED, "rows", progress.step).choice(CANDIDATES, BATCH_SIZE, replace=False)
        anchors, pullback = adapter.forward(params, queries[rows])

        # let negatives = miner.mine(&anchor, &candidates, params.k_neighbors);
        chosen = miner.select(
            anchors, documents[rows], documents, stage.negatives,
            rng=stream(SEED, "miner", progress.step),
        )  # fmt: skip
        # let (value, gradients) = loss.compute_with_gradients(&anchor, &positive, &negatives);
        pairs = Listed(rows[:, None], chosen, CANDIDATES)
        batch = Batch(anchors=anchors, references=documents, relation=pairs)
        now = replace(loss, temperature=stage.temperature)
        result = now.value_and_grad(batch, wrt=("anchors",))
        gradients, _ = pullback(result.grads["anchors"], need_dx=False)
        # optimizer.step(&mut params, &gradients);
        params, state = optimizer.update(params, gradients, state)
        # curriculum.step(batch_size);
        progress = progress.after(samples=BATCH_SIZE)

        seen["loss"].append(float(result.value))
        seen["norm"].append(float(np.linalg.norm(gradients["W"])))
        seen["negatives"].append(stage.negatives)
        seen["temperature"].append(stage.temperature)
    seen["W"] = params["W"]
    return seen


if __name__ == "__main__":
    found = main()
    print("step  negatives  temperature   loss")
    for step in range(0, len(found["loss"]), 10):
        negatives, temperature = found["negatives"][step], found["temperature"][step]
        print(f"{step:4}  {negatives:9}  {temperature:11.2f}  {found['loss'][step]:5.3f}")
