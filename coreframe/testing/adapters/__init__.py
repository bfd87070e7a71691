"""What an adapter promises."""
