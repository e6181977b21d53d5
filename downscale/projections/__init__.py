"""From model and observations to fine projections: bias adjustment, downscaling and validation."""
