"""Where things are: axes of cells, exact areas, nesting and overlap (numpy only)."""
