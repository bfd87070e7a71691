"""A real model of sentence-transformers, made on the spot: BERT of one layer on a few words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ["red", "green", "blue", "dog", "cat", "bird", "runs", "sleeps", "sings", "the", "house"]


def sentences(count: int, *, seed: int, words: int | None = None) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=words or rng.integers(2, 7))) for _ in range(count)]


def bert(folder: Path, *, dropout: float = 0.0, words: Sequence[str] = WORDS) -> Any:
    """Return a SentenceTransformer with random weights, the same at each call."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=5 + len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    ).save_pretrained(folder)
    return SentenceTransformer(str(folder), device="cpu")
