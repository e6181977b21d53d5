"""Maps that set a coarse field beside its fine one; knows drawing only, never how a fine field was made.

Cells are drawn as cells, with their true edges and no smoothing. Nothing is ever downloaded. Matplotlib
and cartopy are imported when a map is drawn.
"""

from downscale.maps.figure import compare

__all__ = ["compare"]
