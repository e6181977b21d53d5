"""Measures of conservation as reductions over chunks, and the check report."""
