"""A backend's kernels against the references."""
