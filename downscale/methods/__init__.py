"""Methods that need more than weights: trained models, ensembles, footprints, operators as sparse weights."""
