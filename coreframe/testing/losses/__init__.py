"""What a loss promises."""
