"""Figures of fields: coarse beside fine, a part enlarged, errors of cells, spectra, histograms (knows drawing only).

Cells are drawn as cells, with their true edges and no smoothing. Nothing is ever downloaded. Matplotlib
and cartopy are imported when a figure is drawn.
"""

from downscale.maps.conservation import conservation
from downscale.maps.figure import compare
from downscale.maps.histograms import pit_histogram, rank_histogram
from downscale.maps.spectrum import power_spectrum, spectrum
from downscale.maps.zoom import zoom

__all__ = ["compare", "conservation", "pit_histogram", "power_spectrum", "rank_histogram", "spectrum", "zoom"]
