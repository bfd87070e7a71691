"""Memory of freed arrays stays with the process, for the arrays that come next.

glibc gives a large array pages of its own and takes them back when it is freed, so that the next
array of that size costs page faults again: as much as several passes over it. What is large begins
at 128 KiB, and follows the largest array that was freed, up to 32 MiB (``man mallopt``,
M_MMAP_THRESHOLD). So one such array is made and freed, without ever being touched; the process may
then keep up to 64 MiB of freed memory. Other systems' allocators are as they were.
"""

from __future__ import annotations

import numpy as np

_LARGEST = 2**25 - 2**16  # bytes: 32 MiB, and room for what an allocator writes beside it


def keep_freed() -> None:
    """Raise the size from which freed memory goes back to the system."""
    np.empty(_LARGEST, np.uint8)
