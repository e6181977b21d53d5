"""Figures of fields: comparisons, zooms, cell errors, spectra, histograms.

Cells are drawn with their true edges and without smoothing. Nothing is downloaded. Matplotlib and cartopy are imported
when a figure is drawn.
"""

from downscale.plot.charts import pit_histogram, power_spectrum, rank_histogram, spectrum
from downscale.plot.figures import compare, conservation, zoom

__all__ = ["compare", "conservation", "pit_histogram", "power_spectrum", "rank_histogram", "spectrum", "zoom"]
