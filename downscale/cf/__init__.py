"""The meaning of metadata: grids, times, layers, quantities and units from CF attributes, and back (never torch)."""
