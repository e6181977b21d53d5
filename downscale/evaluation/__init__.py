"""Comparison of methods with a reference on held-out data."""
