"""What the numbers depend on: processor, threads, versions, date; no name of a machine."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "numpy",
    "numba",
    "torch",
    "jax",
    "optax",
    "pytorch-metric-learning",
    "sentence-transformers",
    "thinc",
    "faiss-cpu",
    "cupy-cuda12x",
    "cupy-cuda13x",
)


def allowed() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str | None]:
    """Return the version of each library, or None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def describe(threads: int) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions(),
    }
