"""Measuring what an adapter is worth: exact search, retrieval metrics, paired comparison."""
