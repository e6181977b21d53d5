"""The outside world: CF metadata, reading and writing NetCDF (never torch)."""
