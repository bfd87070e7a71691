"""Measuring what an adapter is worth: exact search, retrieval metrics, paired comparison."""

METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
"""What is always evaluated, beside the metric that decides; ``metrics`` defines them and more."""
