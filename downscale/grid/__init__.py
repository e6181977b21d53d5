"""Grids: axes of cells, exact areas, nesting and overlap."""
