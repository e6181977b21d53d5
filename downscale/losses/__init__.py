"""Penalties on fields: how steep may a field be over its relief."""
