"""The NumPy backend of coreframe."""
