"""What an embedder promises."""
