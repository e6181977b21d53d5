"""The pictures of a report: maps, cell errors and spectra, as PNG in memory."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.cf.horizontal import horizontal
from downscale.check.self_validation import sample_maps
from downscale.errors import DownscaleError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
# Maximum fine values for errors and spectra: some maps of a record, one of a large grid.
MOST_VALUES, MOST_MAPS = 20_000_000, 400
# Spectral slope assumed by the default kernel, see the mathematics.
SLOPE = -3.5


@dataclass(frozen=True)
class Picture:
    """One picture with its texts; ``alt`` describes it to readers who cannot see it."""

    title: str
    alt: str
    caption: str
    data: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.data).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, read from the file."""
        return int.from_bytes(self.data[16:20]), int.from_bytes(self.data[20:24])


def pictures(
    coarse: xr.Dataset, fine: xr.Dataset, name: str, title: str, drawn: Path | None, sftlf: Any
) -> list[Picture]:
    """Return the pictures of one field; those not possible on its grids are left out."""
    figures = []
    last_indices = {str(d): -1 for d in coarse[name].dims if d not in horizontal(coarse, guess=True).dims}
    for make in (
        lambda: _map(coarse, fine, name, title, drawn, last_indices, sftlf),
        lambda: _zoom(coarse, fine, name, last_indices, sftlf),
        lambda: _errors(coarse, fine, name, sftlf),
        lambda: _spectra(coarse, fine, name),
    ):
        try:
            figures.append(make())
        except DownscaleError:
            # Quadrilaterals have no zoom, grids that do not nest no cell errors, narrow maps no spectrum.
            continue
    return figures


def _map(
    coarse: xr.Dataset, fine: xr.Dataset, name: str, title: str, drawn: Path | None, last: dict[str, int], sftlf: Any
) -> Picture:
    from downscale.plot import compare

    if drawn is not None and drawn.suffix == ".png":
        data = drawn.read_bytes()
    else:
        data = _png(compare(coarse, fine, select=last, title=title, sftlf=sftlf))
    return Picture(
        "Coarse, fine, and added detail",
        f"Three maps of {name}: the coarse field, the fine field on the same colour scale, and the fine field minus "
        "the coarse cell that contains it",
        "The last step. The added detail averages to zero over each coarse cell if cell means are conserved.",
        data,
    )


def _zoom(coarse: xr.Dataset, fine: xr.Dataset, name: str, last: dict[str, int], sftlf: Any) -> Picture:
    from downscale.plot import zoom

    return Picture(
        "Strongest added detail",
        f"A map of the fine field of {name}, and a box within it, coarse and fine",
        "The box is the part, a quarter of each axis, in which the added detail is strongest.",
        _png(zoom(coarse, fine, select=last, sftlf=sftlf)),
    )


def _errors(coarse: xr.Dataset, fine: xr.Dataset, name: str, sftlf: Any) -> Picture:
    from downscale.plot import conservation

    maps, total = _sample(coarse, fine, name), len(list(_leading(coarse[name], coarse)))
    coarse_maps, fine_maps = maps
    count = len(list(_leading(coarse_maps[name], coarse_maps)))
    which = "all maps" if count == total else f"{count} of {total} maps, evenly spaced"
    figure = conservation(coarse_maps, fine_maps, variable=name, sftlf=sftlf)
    return Picture(
        "Worst cells",
        f"A map of the largest relative error of each coarse cell of {name} with a ring around the worst one, and a "
        "histogram of the errors of all cells with the tolerance as a line",
        f"Errors of {which}, from the file as written. Float32 leaves up to 6e-8.",
        _png(figure),
    )


def _spectra(coarse: xr.Dataset, fine: xr.Dataset, name: str) -> Picture:
    from downscale.plot import spectrum

    coarse_maps, fine_maps = _sample(coarse, fine, name)
    figure = spectrum({"coarse": coarse_maps, "fine": fine_maps}, slope=SLOPE)
    return Picture(
        "Power spectra",
        f"Spectral density of the coarse and the fine field of {name} against wavelength, with a reference line",
        "Both agree at wavelengths that the coarse grid resolves; power to the right of the line marked shortest was "
        "added. The dashed line is the spectral slope that the default kernel assumes.",
        _png(figure),
    )


def _leading(field: xr.DataArray, ds: xr.Dataset) -> Iterator[tuple[int, ...]]:
    dims = [dim for dim in field.dims if dim not in horizontal(ds, guess=True).dims]
    return iter(np.ndindex(tuple(field.sizes[dim] for dim in dims)))


def _sample(coarse: xr.Dataset, fine: xr.Dataset, name: str) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the same evenly spaced maps of both in memory, few enough to plot quickly."""
    axes = horizontal(fine)
    cells = int(np.prod([fine[name].sizes[dim] for dim in axes.dims]))
    count = max(min(MOST_MAPS, MOST_VALUES // cells), 1)
    if all(coarse.sizes.get(dim) == fine.sizes[dim] for dim in fine[name].dims if dim not in axes.dims):
        return sample_maps(coarse, horizontal(coarse), count).load(), sample_maps(fine, axes, count).load()
    return coarse, fine


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return stream.getvalue()
