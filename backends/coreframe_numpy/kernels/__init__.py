"""Fast versions of core operations for NumPy arrays."""
