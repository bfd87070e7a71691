"""Loops compiled by numba, where NumPy cannot reach the speed of memory; one file a concept.

numba is optional (the extra ``compiled``). It is imported when a kernel that uses it first runs,
and without it, or under ``COREFRAME_KERNELS=plain``, NumPy does the same work.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any


def available() -> bool:
    """Say whether compiled kernels may be used: numba can be imported, and is not ruled out."""
    return os.environ.get("COREFRAME_KERNELS") not in ("plain", "off") and _importable()


@functools.cache
def _importable() -> bool:
    """Try it: a numba that is installed may still refuse this NumPy, or other packages' metadata.

    Its extensions would be loaded with the first compilation, inside a kernel.
    """
    try:
        import numba  # noqa: F401
        from numba.core import entrypoints

        entrypoints.init_all()
    except Exception:
        return False
    return True


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a module as machine code, kept on disk between processes.

    It runs without the interpreter's lock, so that the one pool of ``threads`` serves it too, and
    its arithmetic is NumPy's: nothing is contracted or reordered.
    """
    import numba

    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep it in can be written to
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
