"""Reading and writing NetCDF, Zarr and GRIB files (never torch)."""
