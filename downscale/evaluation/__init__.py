"""Methods compared with the truth on data they never saw; sits above the public functions, which it calls."""
