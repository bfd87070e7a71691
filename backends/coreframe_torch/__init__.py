"""The PyTorch backend of coreframe."""
