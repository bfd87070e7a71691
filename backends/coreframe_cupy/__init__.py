"""The CuPy backend of coreframe."""
