"""How often the host waits for the device inside a step, counted in two independent ways.

- With torch's CUDA arrays through the same core, ``torch.cuda.set_sync_debug_mode("warn")``
  warns at each operation that waits. It knows torch's own operations only.
- With CuPy's arrays, a step inside of a stream capture: CUDA refuses to wait while it captures, so
  a step that is captured to its end waited for nothing. What a failed capture says is where the
  first wait is. Allocation is from a pool that was filled before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Waits:
    """What was run, how many waits were seen in it, and how they were counted."""

    what: str
    count: str
    how: str


def step_on(params: Any, anchors: Any, references: Any) -> Callable[[], Any]:
    """Return one training step on arrays of any library: adapter, loss, pullback, optimizer."""
    from coreframe import Batch
    from coreframe_adapters.linear import Linear
    from coreframe_losses.info_nce import InfoNCE
    from coreframe_optimizers.adamw import AdamW

    adapter, loss, optimizer = Linear(), InfoNCE(temperature=0.07), AdamW()
    state = optimizer.init(params)

    def run() -> Any:
        y, pullback = adapter.forward(params, anchors)
        result = loss.value_and_grad(Batch.pairs(y, references), wrt=("anchors",))
        grads, _ = pullback(result.grads["anchors"], need_dx=False)
        return optimizer.update(params, grads, state)

    return run


def count_warnings(call: Callable[[], Any], text: str) -> int:
    """Return how many warnings with a text a call gives."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return sum(text in str(one.message) for one in found)


def with_torch(n: int, d: int) -> Waits:
    import torch

    how = 'torch.cuda.set_sync_debug_mode("warn") on torch arrays'
    generator = torch.Generator("cuda").manual_seed(0)
    a, b = (torch.randn(n, d, device="cuda", generator=generator) for _ in range(2))
    call = step_on({"W": torch.eye(d, device="cuda")}, a, b)
    call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        # The mode must see a wait that is certain, or its 0 would mean nothing.
        if not count_warnings(lambda: float(a[0, 0]), "synchronizing"):
            return Waits(_what(n, d), "unknown", how + ", which did not see a certain wait")
        count = count_warnings(call, "synchronizing")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Waits(_what(n, d), str(count), how)


def with_cupy(n: int, d: int) -> Waits:
    import cupy

    how = "capture of a stream, in which CUDA refuses to wait, on CuPy arrays"
    rng = cupy.random.default_rng(0)
    a, b = (rng.standard_normal((n, d), dtype=cupy.float32) for _ in range(2))
    call = step_on({"W": cupy.eye(d, dtype=cupy.float32)}, a, b)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for _ in range(3):  # fills the pool of this stream, loads kernels and makes handles
            call()
        stream.synchronize()
        if _captured(stream, lambda: float(a[0, 0])) is None:
            return Waits(_what(n, d), "unknown", how + ", which let a certain wait pass")
        stopped = _captured(stream, call)
    if stopped is None:
        return Waits(_what(n, d), "0", how)
    return Waits(_what(n, d), "at least 1", f"{how}; it stopped at: {stopped}")


def _captured(stream: Any, call: Callable[[], Any]) -> str | None:
    """Return what stopped a capture of a call, or None where it went to its end."""
    stopped: str | None = None
    stream.begin_capture()
    try:
        call()
    except Exception as error:
        stopped = f"{type(error).__name__}: {str(error)[:120]}"
    try:
        stream.end_capture()
    except Exception as error:  # a capture that was spoilt ends with an error of its own
        stopped = stopped or f"{type(error).__name__}: {str(error)[:120]}"
    return stopped


def _what(n: int, d: int) -> str:
    return f"linear {d} x {d}, InfoNCE, AdamW, batch {n:,}"


def count_all(quick: bool) -> Iterator[Waits]:
    """Count in each way that can be used here; a way that fails is named with its reason."""
    from benchmarks.gpu_sides import _torch

    n, d = (512, 64) if quick else (4096, 384)
    ways: list[tuple[str, Callable[[int, int], Waits]]] = [("CuPy", with_cupy)]
    if _torch() is not None:
        ways.append(("torch", with_torch))
    else:
        yield Waits(_what(n, d), "not counted", "torch with CUDA is not installed")
    for name, way in ways:
        try:
            yield way(n, d)
        except Exception as error:
            yield Waits(_what(n, d), "unknown", f"{name}: {type(error).__name__}: {error}"[:200])
