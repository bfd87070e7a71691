"""What coreframe costs beside its floor and beside what else there is; see docs/benchmarks.md."""
