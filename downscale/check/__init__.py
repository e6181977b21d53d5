"""Conservation checks of fields and files, and self-validation."""
