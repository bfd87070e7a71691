"""Runs in trackio, by the adapter of W&B."""

from __future__ import annotations

from dataclasses import dataclass

from coreframe_callbacks.wandb import Wandb


@dataclass(frozen=True, kw_only=True)
class Trackio(Wandb):
    """Write a run to trackio: on this machine, and shown by ``trackio show``; no account needed.

    Values are ``train/loss``, ``eval/ndcg@10``, and ``test/ndcg@10`` at the last step. TRACKIO_DIR
    says where they lie, TRACKIO_SPACE_ID sends them to a Space of the Hugging Face Hub.

    Args:
        project: the project's name. Default: None, TRACKIO_PROJECT_NAME, else "coreframe".
        library: as in ``wandb``, whose adapter this is. Default: trackio.

    Shapes: one value a name, at its step.

    Edges: as ``wandb``. The value ``failed`` is 1 at the end of a run that failed.

    Cost: one call a record; trackio writes in a thread of its own.

    References: https://huggingface.co/docs/trackio

    >>> Trackio().library
    'trackio'
    """

    library: str = "trackio"
