"""Rows in, pairs and batches out."""
