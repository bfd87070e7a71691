"""What the kernels of losses turn into plain numbers, or leave to others."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet

LABELS = np.arange(8) // 2


@pytest.mark.parametrize("number", [Fraction(1, 2), np.float16(0.5), np.float64(0.5)])
@pytest.mark.parametrize(
    "call",
    [
        lambda number, a, b: InfoNCE(temperature=number, margin=number)(a, b),
        lambda number, a, b: InfoNCE(temperature=number, margin=number, symmetric=True)(a, b),
        lambda number, a, b: InfoNCE(temperature=number, margin=number)(a, labels=LABELS),
        lambda number, a, b: SupCon(temperature=number)(a, labels=LABELS),
        lambda number, a, b: Triplet(margin=number, mode="all")(a, labels=LABELS),
    ],
    ids=["info_nce", "symmetric", "labels", "sup_con", "triplet"],
)
def test_any_real_number_is_a_setting(call, number, monkeypatch):
    x = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)
    want = call(0.5, *x)
    for kernels in ("on", "plain"):
        monkeypatch.setenv("COREFRAME_KERNELS", kernels)
        found = call(number, *x)
        assert found.value.dtype == np.float32
        np.testing.assert_allclose(found.value, want.value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [">f4", np.longdouble])
def test_dtypes_that_no_loop_is_compiled_for(dtype):
    x = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)
    np.testing.assert_allclose(InfoNCE()(*x.astype(dtype)).value, InfoNCE()(*x).value, rtol=1e-5)
