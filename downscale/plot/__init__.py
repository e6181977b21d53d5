"""Figures of fields: comparisons, zooms, cell errors, spectra, histograms.

Cells are drawn with their true edges and without smoothing. Nothing is downloaded. Matplotlib and cartopy are imported
when a figure is drawn.
"""

from downscale.plot.conservation import conservation
from downscale.plot.figure import compare
from downscale.plot.histograms import pit_histogram, rank_histogram
from downscale.plot.spectrum import power_spectrum, spectrum
from downscale.plot.zoom import zoom

__all__ = ["compare", "conservation", "pit_histogram", "power_spectrum", "rank_histogram", "spectrum", "zoom"]
