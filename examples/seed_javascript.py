"""The usage example of the JavaScript seed, line for line.

The JavaScript module trained small low-rank adapters on pairs of texts: preprocess, go over
batches, compute a contrastive loss, and protect what was learned by elastic weight consolidation.
Its own example had two rows, ten epochs and as many warm-up steps as steps in all, and every
weight became NaN; rows, epochs and warm-up are the same here.

    python examples/seed_javascript.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe import Batches, Preprocessor, Progress, build, fisher, resolve
from coreframe.random import stream

ROWS = [
    {"input": "What is Rust?", "output": "A systems language with ownership.", "quality": 0.9},
    {"input": "How do I sort a list?", "output": "Call sorted(list).", "quality": 1.0},
]
EPOCHS, BATCH_SIZE, WARMUP, DIMENSIONS, SEED = 10, 4, 10, 384, 42


def main() -> dict[str, Any]:
    """Run the example and return what it found."""
    events: list[str] = []
    # const preprocessor = new DataPreprocessor({ maxLength: 512, embeddingDim: 384 });
    preprocessor = Preprocessor(
        embedder=build("embedders", "sha256", dimensions=DIMENSIONS),
        max_length=512,
        on_event=lambda name, payload: events.append(f"{name} {payload['total']}"),
    )
    # const processed = await preprocessor.process(rows);
    processed = preprocessor.process(ROWS)
    # const batches = new BatchGenerator(processed, { batchSize: 4, shuffle: true });
    batches = Batches(pairs=processed.pairs(), batch_size=BATCH_SIZE, seed=SEED)

    # const adapter = new MicroLoRA({ rank: 4, alpha: 8 });  cosine, warmup 10, and lr 1e-4, which
    # in ten steps moves next to nothing: here it is 1e-2, so that the loss is seen to fall.
    adapter = build("adapters", "micro_lora", rank=4, alpha=8)
    loss = build("losses", "info_nce", temperature=0.07)
    rate = build("schedulers", "warmup_cosine", peak=1e-2, warmup_steps=WARMUP)
    optimizer = build("optimizers", "sgd", learning_rate=rate)
    params = adapter.init(stream(SEED, "adapter"), DIMENSIONS)
    state = optimizer.init(params)
    progress = Progress(steps=EPOCHS * len(batches))
    losses: list[float] = []

    for _ in range(EPOCHS):
        # for (const batch of batches) {
        for batch in batches:
            anchors, pullback = adapter.forward(params, batch.anchors)
            # const { loss } = LossComputer.contrastive(batch.anchors, batch.positives, null, 0.07);
            result = loss(anchors, batch.references, weights=batch.weights, wrt=("anchors",))
            gradients, _ = pullback(result.grads["anchors"], need_dx=False)
            now = resolve(optimizer, progress)
            params, state = now.update(params, gradients, state)
            progress = progress.after(samples=batch.anchors.shape[0])
        losses.append(float(result.value))

    # const ewc = new EWCManager({ lambda: 2000 });
    # await ewc.computeFisher(adapters, processed);
    information = fisher(adapter, params, loss, batches, samples=200, seed=SEED)
    ewc = build("regularizers", "ewc", strength=2000.0).learned(params, information)
    # const total = loss + ewc.computePenalty(adapters);
    moved = {name: x + np.float32(0.01) for name, x in params.items()}
    return {
        "events": events,
        "losses": losses,
        "params": params,
        "penalty": float(ewc.value_and_grad(params).value),
        "penalty of other weights": float(ewc.value_and_grad(moved).value),
    }


if __name__ == "__main__":
    found = main()
    print("events:", *found["events"])
    print("loss by epoch:", *(f"{value:.4f}" for value in found["losses"]))
    for name in ("penalty", "penalty of other weights"):
        print(f"{name}: {found[name]:.4g}")
