"""Mean squared error of anchors and references, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.component import Preset
from coreframe.row_loss import RowLoss


@dataclass(frozen=True, kw_only=True)
class MSE(RowLoss):
    """Mean squared error: each anchor against the reference of its row.

        l_i = mean_c (a_ic - r_ic)^2

    Row i goes with row i, whatever the relation; shared and own negatives take no part. Equals
    ``torch.nn.functional.mse_loss(anchors, references)``.

    Args:
        reduction: mean, sum, mean_active or none, over rows; the mean over dimensions stays.
            Default: torch's.

    Shapes: anchors (n, d); references (n, d), or more with shared negatives behind them;
    gradients for both.

    Edges: other widths or numbers of rows, no rows and no dimensions are errors. Equal rows have
    loss and gradient 0. Where the weights sum to 0, value and gradients are 0.

    Cost: O(n d) time and memory.

    References: Gauss 1809; torch.nn.functional.mse_loss. As a distillation loss on embeddings:
    Reimers & Gurevych 2020, arXiv 2004.09813, eq. 1.

    >>> import numpy as np
    >>> result = MSE()(np.array([[1.0, 2, 3, 4]]), np.zeros((1, 4)))
    >>> float(result.value), result.grads["anchors"].tolist()
    (7.5, [[0.5, 1.0, 1.5, 2.0]])
    """

    needs: ClassVar[tuple[str, ...]] = ("anchors", "references")

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.nn.MSELoss",
            fields={"reduction": "mean"},
            arguments={"reduction": "mean"},
            version="torch 2.13.0",
        ),
        "sentence-transformers": Preset(
            equals="sentence_transformers.losses.MSELoss",
            fields={"reduction": "mean"},
            arguments={"projection_dim": None},
            version="sentence-transformers 6.2.0",
            note="The references are the teacher's embeddings.",
        ),
    }

    def rows(self, arrays: Params, batch: Batch) -> tuple[Array, Params]:
        apart = arrays["anchors"] - arrays["references"]
        slope = apart * (2 / apart.shape[1])
        xp = namespace(apart=apart)
        return xp.mean(apart * apart, axis=1), {"anchors": slope, "references": -slope}
