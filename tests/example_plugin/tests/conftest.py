"""Fixtures of coreframe's kit: ``array_library``, ``batch_case``, ``plugin_registry``."""

pytest_plugins = ["coreframe.testing.fixtures"]
