"""A loss and a miner for coreframe."""
