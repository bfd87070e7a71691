"""What a regularizer promises."""
