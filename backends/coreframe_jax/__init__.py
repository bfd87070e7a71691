"""The JAX backend of coreframe."""
