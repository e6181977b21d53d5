"""The steps of `downscale()` on a Dataset, one per file."""
