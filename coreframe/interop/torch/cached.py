"""Cached steps for encoders of PyTorch: a batch as large as the loss wants, a part at a time.

    y_i = encoder(x_i)      part by part, and no activation is kept
    dy  = d loss / d y      on all of them together
    encoder(x_i) again, with the same draws, and back, part by part

It is ``torch.utils.checkpoint`` on each part, which is what GradCache comes to in a graph. So the
value is a tensor as any other: ``backward``, accumulation, a GradScaler and hooks work on it.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.interop.torch.losses import torch_loss
from coreframe.loss import Loss

__all__ = ["cached", "cached_step"]

Encoder = Callable[[Any], torch.Tensor]
"""From rows (a tensor, a mapping of tensors, or a list of texts) to embeddings (n, d)."""


def cached(encoder: Encoder, inputs: Any, *, mini_batch_size: int) -> torch.Tensor:
    """Run an encoder on parts of its rows, and again on each when the gradient comes back.

    The gradients are those of the encoder run on the same parts with all activations kept, draws
    of dropout included: the random state of the processor and of each device that the encoder has
    parameters on is put back for the second pass, and so is autocast.

    Args:
        encoder: ``encoder(part) -> (n, d)``, a module or a function.
        inputs: what it takes, rows first: a tensor, a mapping of tensors as tokenizers return it,
            or a list.
        mini_batch_size: rows a part, >= 1.

    Raises ArgumentTypeError for an encoder that returns anything but one tensor.

    Edges: with no more rows than a part has it is the plain pass, and where no gradients are
    asked for, nothing is run again. An encoder whose rows depend on each other (batch
    normalisation) is another function in parts.

    Cost: one more forward pass; memory of one part's activations, in place of all.

    References: Gao et al. 2021, arXiv 2101.06983 (GradCache).

    >>> encoder = torch.nn.Linear(4, 2)
    >>> cached(encoder, torch.zeros(5, 4), mini_batch_size=2).shape
    torch.Size([5, 2])
    """
    whole = isinstance(mini_batch_size, numbers.Integral) and not isinstance(mini_batch_size, bool)
    if not whole or mini_batch_size < 1:
        raise ArgumentError(
            f"mini_batch_size must be a whole number from 1, got {mini_batch_size!r}"
        )
    rows = _rows(inputs)
    if rows <= mini_batch_size:
        return _embeddings(encoder(inputs))
    parts = [_part(inputs, i, i + mini_batch_size) for i in range(0, rows, mini_batch_size)]
    if not torch.is_grad_enabled():
        return torch.cat([_embeddings(encoder(part)) for part in parts])
    places = _places(encoder)

    def run(part: Any, *_: torch.Tensor) -> torch.Tensor:
        return _embeddings(encoder(part))

    return torch.cat([checkpoint(run, part, *places, use_reentrant=False) for part in parts])


def cached_step(
    encoder: Encoder | Mapping[str, Encoder],
    loss: Loss | str | Callable[..., torch.Tensor],
    inputs: Mapping[str, Any],
    *,
    mini_batch_size: int,
    own_negatives: int = 0,
    **arguments: Any,
) -> torch.Tensor:
    """Return a loss on a whole batch, through an encoder that sees it in parts.

        cached_step(encoder, loss, {"anchors": x, "positives": y}, mini_batch_size=32).backward()

    Args:
        encoder: for all inputs; or one for each, by name. An input without one is taken as it is:
            embeddings that stay frozen.
        loss: a ``Loss``, its name, a ``LossModule``, or any function of the embeddings by name.
        inputs: what the encoder takes, by the loss's name for it: anchors, and maybe positives and
            negatives; see ``cached``.
        mini_batch_size: rows a part, >= 1.
        own_negatives: k, where the negatives are each anchor's own: they are (n * k, ...) in
            ``inputs``, and (n, k, d) in the loss. Default: 0, they are shared by all.
        arguments: what else the loss takes: labels, ids, weights, ...

    Raises ArgumentError for an encoder of an input that is not there.

    >>> encoder = torch.nn.Linear(4, 2)
    >>> pairs = {"anchors": torch.eye(4), "positives": torch.eye(4)}
    >>> cached_step(encoder, "info_nce", pairs, mini_batch_size=2).backward()
    >>> encoder.weight.grad.shape
    torch.Size([2, 4])
    """
    encoders = dict(encoder) if isinstance(encoder, Mapping) else dict.fromkeys(inputs, encoder)
    if unknown := sorted(set(encoders) - set(inputs)):
        raise ArgumentError(
            f"encoder names {unknown[0]!r}, but inputs has {', '.join(sorted(inputs))}"
        )
    embeddings = {
        name: cached(encoders[name], x, mini_batch_size=mini_batch_size) if name in encoders else x
        for name, x in inputs.items()
    }
    if own_negatives:
        if "negatives" not in embeddings:
            raise ArgumentError(f"own_negatives={own_negatives}, but inputs has no negatives")
        flat = embeddings["negatives"]
        embeddings["negatives"] = flat.reshape(-1, own_negatives, flat.shape[-1])
    if isinstance(loss, Loss | str):
        return torch_loss(loss, **embeddings, **arguments)
    return loss(**embeddings, **arguments)


def _embeddings(found: Any) -> torch.Tensor:
    if not isinstance(found, torch.Tensor):
        raise ArgumentTypeError(
            f"the encoder must return one tensor of embeddings, got {type(found).__name__}; wrap "
            "it in a function that takes the one that the loss is to see"
        )
    return found


def _rows(inputs: Any) -> int:
    if isinstance(inputs, Mapping):
        for name, x in inputs.items():
            if not isinstance(x, torch.Tensor | Sequence) or isinstance(x, str):
                raise ArgumentTypeError(
                    f"the input {name!r} of an encoder must have rows to cut: a tensor or a list, "
                    f"got {type(x).__name__}; what is the same for all rows belongs in the encoder"
                )
        counts = {name: len(x) for name, x in inputs.items()}
        if len(set(counts.values())) != 1:
            raise ArgumentError(f"the inputs of an encoder must share their rows, got {counts}")
        return next(iter(counts.values()))
    if isinstance(inputs, torch.Tensor | Sequence) and not isinstance(inputs, str):
        return len(inputs)
    raise ArgumentTypeError(
        "inputs must have rows to cut: a tensor, a mapping of tensors or a list, "
        f"got {type(inputs).__name__}"
    )


def _part(inputs: Any, start: int, stop: int) -> Any:
    if isinstance(inputs, Mapping):
        return {name: x[start:stop] for name, x in inputs.items()}
    return inputs[start:stop]


def _places(encoder: Encoder) -> list[torch.Tensor]:
    """Return an empty tensor on each device of the encoder, whose random state is to be kept.

    What it draws from must be known where its inputs are texts, or still on the processor.
    """
    tensors = encoder.parameters() if isinstance(encoder, torch.nn.Module) else ()
    return [
        torch.empty(0, device=device) for device in sorted({x.device for x in tensors}, key=str)
    ]
