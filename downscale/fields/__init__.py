"""Operations on fields: aggregation, constraints, gradients, noise, spectra."""
