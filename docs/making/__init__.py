"""What docs/generate.py puts on pages beside the words of the docstrings."""
