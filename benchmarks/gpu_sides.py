"""What is measured on a GPU, and how its time and memory are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import util
from typing import Any, Protocol

T = 0.07
Build = Callable[[], Callable[[], Any]]


class Device(Protocol):
    """Waits for the device, frees what pools keep, and reads the peak of a call."""

    def synchronize(self) -> None: ...

    def free(self) -> None: ...

    def peak(self, call: Callable[[], Any], side: str) -> int: ...


class Cuda:
    """One CUDA device, with CuPy's pool and, where it is installed, torch's."""

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.torch = _torch()

    def name(self) -> str:
        found = self.cupy.cuda.runtime.getDeviceProperties(self.cupy.cuda.Device().id)["name"]
        return found.decode() if isinstance(found, bytes) else str(found)

    def synchronize(self) -> None:
        self.cupy.cuda.Device().synchronize()
        if self.torch is not None:
            self.torch.cuda.synchronize()

    def free(self) -> None:
        self.cupy.get_default_memory_pool().free_all_blocks()
        if self.torch is not None:
            self.torch.cuda.empty_cache()

    def peak(self, call: Callable[[], Any], side: str) -> int:
        """Return how many bytes a call holds at most, beyond what was held before it."""
        self.free()
        if side.startswith("torch"):
            self.torch.cuda.reset_peak_memory_stats()
            before = self.torch.cuda.memory_allocated()
            call()
            self.synchronize()
            return int(self.torch.cuda.max_memory_allocated() - before)
        hook = _Peak(self.cupy)
        with hook:
            call()
            self.synchronize()
        return hook.peak


def _Peak(cupy: Any) -> Any:  # noqa: N802 - a class that needs CuPy's to derive from
    """Return a hook of CuPy's pool that follows what is in use during a call."""
    pool = cupy.get_default_memory_pool()

    class Peak(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "Peak"

        def __init__(self) -> None:
            self.before = self.most = pool.used_bytes()

        @property
        def peak(self) -> int:
            return int(self.most - self.before)

        def malloc_postprocess(self, **known: Any) -> None:
            self.most = max(self.most, pool.used_bytes())

    return Peak()


def _torch() -> Any:
    if util.find_spec("torch") is None:
        return None
    import torch

    return torch if torch.cuda.is_available() else None


@dataclass(frozen=True)
class Work:
    """One comparison: builders of calls by side, of which ``coreframe`` is ours."""

    name: str
    what: str
    sides: Mapping[str, Build]
    targets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def _with_torch(sides: dict[str, Build], theirs: Mapping[str, Build]) -> dict[str, Any]:
    """Return the sides and what is left out, with torch's where it can use the device."""
    if _torch() is not None:
        return {"sides": {**sides, **theirs}}
    why = "torch with CUDA is not installed"
    return {"sides": sides, "left_out": dict.fromkeys(theirs, why)}


def _pairs(n: int, d: int) -> tuple[Any, Any]:
    import cupy

    rng = cupy.random.default_rng(0)
    a = rng.standard_normal((n, d), dtype=cupy.float32)
    b = rng.standard_normal((n, d), dtype=cupy.float32)
    b += a
    return a, b


def _ours_info_nce(n: int, d: int) -> Build:
    def build() -> Callable[[], Any]:
        from coreframe_losses.info_nce import InfoNCE

        a, b = _pairs(n, d)
        loss = InfoNCE(temperature=T)
        return lambda: loss(a, b)

    return build


def _torch_info_nce(n: int, d: int, compiled: bool) -> Build:
    def build() -> Callable[[], Any]:
        import torch
        from torch.nn.functional import cross_entropy, normalize

        # The same precision of products on both sides: float32, not TensorFloat-32.
        torch.backends.cuda.matmul.allow_tf32 = False
        a, b = (torch.from_dlpack(x).clone().requires_grad_() for x in _pairs(n, d))
        target = torch.arange(n, device=a.device)

        def loss(x: Any, y: Any) -> Any:
            return cross_entropy(normalize(x) @ normalize(y).T / T, target)

        used = torch.compile(loss, dynamic=False) if compiled else loss

        def run() -> Any:
            a.grad = b.grad = None
            used(a, b).backward()
            return a.grad, b.grad

        return run

    return build


def info_nce(quick: bool) -> Work:
    n, d = (4096, 128) if quick else (65536, 768)
    theirs = {
        "torch eager": _torch_info_nce(n, d, False),
        "torch.compile": _torch_info_nce(n, d, True),
    }
    return Work(
        "info_nce",
        f"InfoNCE, value and both gradients, n = {n:,}, d = {d}",
        targets={
            "torch eager": {"at_most": 0.5, "memory_share": 0.05},
            "torch.compile": {"at_most": 1.0},
        },
        **_with_torch({"coreframe": _ours_info_nce(n, d)}, theirs),
    )


def large(quick: bool) -> Work:
    n, d = (16384, 128) if quick else (1048576, 768)
    return Work(
        "large",
        f"InfoNCE, n = {n:,}, d = {d}, on one device",
        {"coreframe": _ours_info_nce(n, d)},
    )


def _ours_adamw(count: int, size: int) -> Build:
    def build() -> Callable[[], Any]:
        import cupy

        from coreframe_optimizers.adamw import AdamW

        rng = cupy.random.default_rng(0)
        make = [rng.standard_normal(size, dtype=cupy.float32) for _ in range(2 * count)]
        params = {str(i): make[i] for i in range(count)}
        grads = {str(i): make[count + i] for i in range(count)}
        optimizer = AdamW()
        state = optimizer.init(params)

        def run() -> Any:
            nonlocal params, state
            params, state = optimizer.update(params, grads, state, donate=True)
            return params

        return run

    return build


def _torch_adamw(count: int, size: int) -> Build:
    def build() -> Callable[[], Any]:
        import torch

        params = [torch.randn(size, device="cuda", requires_grad=True) for _ in range(count)]
        for p in params:
            p.grad = torch.randn(size, device="cuda")
        optimizer = torch.optim.AdamW(params, fused=True)

        def run() -> Any:
            optimizer.step()
            return params

        return run

    return build


def _adamw(name: str, count: int, size: int) -> Work:
    where = "one array" if count == 1 else f"{count} arrays"
    return Work(
        name,
        f"AdamW, {count * size / 1e6:g} M parameters in {where}",
        targets={"torch fused": {"at_most": 1.0}},
        **_with_torch(
            {"coreframe": _ours_adamw(count, size)},
            {"torch fused": _torch_adamw(count, size)},
        ),
    )


def adamw(quick: bool) -> Work:
    return _adamw("adamw", 1, 1_000_000 if quick else 10_000_000)


def adamw_many(quick: bool) -> Work:
    return _adamw("adamw_many", 200, 5_000 if quick else 50_000)


WORKS: tuple[tuple[Callable[[bool], Work], int], ...] = (
    (info_nce, 5),
    (adamw, 25),
    (adamw_many, 25),
    (large, 1),
)
