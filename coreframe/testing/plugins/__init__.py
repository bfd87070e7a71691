"""What a plugin promises as a package."""
