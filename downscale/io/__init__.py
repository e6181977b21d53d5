"""Reading and writing of NetCDF, Zarr and GRIB files."""
