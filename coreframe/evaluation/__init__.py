"""Measuring what an adapter is worth: exact search, retrieval metrics, paired comparison."""

METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
DEPTH = 10
"""How far down ranked lists are looked at."""
