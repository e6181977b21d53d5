"""Training of learned downscaling models: recipes, pairs, patches, fit, checkpoints (see :mod:`.fit`)."""
