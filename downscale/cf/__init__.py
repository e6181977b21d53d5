"""CF metadata: grids, times, layers, quantities and units, read and written."""
