"""NumPy arrays, on the processor."""

from __future__ import annotations

from typing import Any

from coreframe.backend import Array, to_numpy
from coreframe.errors import BackendUnavailable


class NumpyBackend:
    """The backend that is always there."""

    name = "numpy"
    device = "cpu"

    def __init__(self, device: str = "") -> None:
        if device not in ("", "cpu"):
            raise BackendUnavailable(f"backend 'numpy' has only the device cpu, got {device!r}")

    @property
    def xp(self) -> Any:
        import array_api_compat.numpy as xp

        return xp

    def missing(self) -> str | None:
        return None

    def asarray(self, x: Any, /, dtype: Any = None) -> Array:
        import numpy as np

        return np.asarray(to_numpy(x), dtype=dtype)

    def to_numpy(self, x: Array, /) -> Any:
        return x

    def synchronize(self) -> None:
        pass

    def memory(self) -> int:
        """Return the peak resident memory of the process, where the system tells it."""
        try:
            import resource
            import sys
        except ImportError:  # Windows
            return 0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
