"""CuPy arrays, on an NVIDIA GPU."""

from __future__ import annotations

import importlib.util
from typing import Any

from coreframe.backend import Array, to_numpy
from coreframe.errors import BackendUnavailable


class CupyBackend:
    """One CUDA device; ``cupy:1`` is the second."""

    name = "cupy"

    def __init__(self, device: str = "") -> None:
        # "<CUDA Device 1>" is how CuPy prints a device, and what an array's device turns into.
        number = device.strip("<>").removeprefix("CUDA Device").strip() or "0"
        if not number.isdigit():
            raise BackendUnavailable(f"a CuPy device is a number, as in cupy:1, got {device!r}")
        self.number = int(number)

    @property
    def xp(self) -> Any:
        import array_api_compat.cupy as xp

        return xp

    @property
    def device(self) -> Any:
        import cupy

        return cupy.cuda.Device(self.number)

    def missing(self) -> str | None:
        if importlib.util.find_spec("cupy") is None:
            return (
                "the package cupy is not installed; install it for your CUDA with: "
                "pip install 'coreframe-ml[cupy-cuda12x]' or 'coreframe-ml[cupy-cuda13x]'"
            )
        import cupy

        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            return f"no CUDA device ({error})"
        if self.number >= count:
            return f"there is no CUDA device {self.number}, only {count}"
        return None

    def asarray(self, x: Any, /, dtype: Any = None) -> Array:
        import cupy

        with self.device:
            # On the device already (CuPy, torch, JAX): handed over without a copy on the host.
            if not isinstance(x, cupy.ndarray) and not hasattr(x, "__cuda_array_interface__"):
                x = to_numpy(x)
            return cupy.asarray(x, dtype=dtype)

    def to_numpy(self, x: Array, /) -> Any:
        return x.get()

    def synchronize(self) -> None:
        self.device.synchronize()

    def memory(self) -> int:
        import cupy

        with self.device:
            return int(cupy.get_default_memory_pool().total_bytes())
