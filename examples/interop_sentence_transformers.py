"""One loss line of a sentence-transformers script swapped; then mining, parts and a schedule.

A BERT of one layer, made on the spot, learns that a sentence and the same one with other words
around it belong together: first with MultipleNegativesRankingLoss, then with coreframe's InfoNCE in
its place, which gives the same curve. Then the batch is four times as large and goes through the
model in parts, each anchor meets its hardest negatives alone, and the temperature falls.

    python examples/interop_sentence_transformers.py

Needs sentence-transformers[train] (extra "sentence-transformers"), and takes some seconds.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MultipleNegativesRankingLoss
from transformers import BertConfig, BertModel, BertTokenizer

import coreframe as cf
from coreframe.interop.sentence_transformers import SentenceTransformerLoss
from coreframe.interop.transformers import HealthMetrics, LossSchedules

COLOURS, ANIMALS = (
    ["red", "green", "blue", "black", "white"],
    ["dog", "cat", "bird", "fish", "horse"],
)
ACTIONS = ["runs", "sleeps", "sings", "eats", "waits"]
AROUND = ["the", "a", "today", "here"]


def made_model(folder: Path) -> SentenceTransformer:
    """Return a small model with random weights, the same at each call."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *ANIMALS, *ACTIONS, *AROUND]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), intermediate_size=64, **shape)).save_pretrained(
        folder
    )
    return SentenceTransformer(str(folder), device="cpu")


def pairs() -> Dataset:
    facts = [" ".join(words) for words in itertools.product(COLOURS, ANIMALS, ACTIONS)][:96]
    return Dataset.from_dict({
        "anchor": [f"the {fact} today" for fact in facts],
        "positive": [f"here a {' '.join(reversed(fact.split()))}" for fact in facts],
    })  # fmt: skip


def train(
    folder: Path, make_loss: Callable[[SentenceTransformer], Any], *, batch: int = 16
) -> dict[str, list[float]]:
    """A training script as it is in sentence-transformers; returns what it logged, by name."""
    model, data = made_model(folder), pairs()
    loss = make_loss(model)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / "run"),
            num_train_epochs=3,
            per_device_train_batch_size=batch,
            learning_rate=5e-3,
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=data,
        loss=loss,
    )
    if isinstance(loss, SentenceTransformerLoss):
        trainer.add_callback(LossSchedules(loss, log=trainer.log))
        trainer.add_callback(
            HealthMetrics(
                lambda m: (m.encode(data["anchor"][:]), m.encode(data["positive"][:])),
                log=trainer.log,
                every=2,
            )
        )
    trainer.train()
    found: dict[str, list[float]] = {}
    for name, value in itertools.chain.from_iterable(e.items() for e in trainer.state.log_history):
        found.setdefault(name, []).append(value)
    return found


def main() -> dict[str, Any]:
    found: dict[str, Any] = {}
    same = cf.build("losses", "info_nce", temperature=0.05)
    falling = cf.build(
        "losses", "info_nce", temperature=cf.build("schedulers", "linear", start=0.2, end=0.05)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = train(folder, MultipleNegativesRankingLoss)
        ours = train(folder, lambda model: SentenceTransformerLoss(model, same))
        more = train(
            folder,
            lambda model: SentenceTransformerLoss(
                model, falling, miner=cf.build("miners", "hardest", k=8), mini_batch_size=16
            ),
            batch=48,
        )
    for label, logged in (("theirs", theirs), ("ours", ours), ("more", more)):
        found[label] = logged["loss"]
        print(f"{label:8}", "  ".join(f"{value:.3f}" for value in logged["loss"]))
    found["temperature"] = more["loss.temperature"]
    found["rank"] = more["health/effective_rank"]
    print("temperature", "  ".join(f"{value:.3f}" for value in found["temperature"]))
    print("effective rank", "  ".join(f"{value:.1f}" for value in found["rank"]))
    return found


if __name__ == "__main__":
    main()
