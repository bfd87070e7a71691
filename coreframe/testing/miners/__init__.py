"""What a miner promises."""
