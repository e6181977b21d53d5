"""Blockwise execution: planning, splitting into blocks, and lazy computation."""
