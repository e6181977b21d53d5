"""Execution: plan in integers, cut into blocks, compute lazily; sees the Upscaler protocol only."""
