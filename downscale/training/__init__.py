"""Training of learned up-scalers: recipes, pairs, patches, fit, checkpoints (imports nothing; see :mod:`.fit`)."""
