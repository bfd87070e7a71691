"""Plugins that do not work, each in its own way."""
