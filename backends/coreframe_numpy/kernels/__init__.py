"""Fast versions of core operations for NumPy arrays."""

from coreframe_numpy.kernels.memory import keep_freed

keep_freed()
