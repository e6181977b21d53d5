"""Weights of a point-spread function on cells, uniform or for each pair of rows.

On the sphere distances are along great circles, so that a footprint covers more columns near a pole, and extends across
it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.deconvolution.psf import AnyPsf, ArrayPsf, Psf
from downscale.errors import GridError, OptionError, ShapeError
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.sphere import EARTH_RADIUS

Floats = NDArray[np.float64]
# Sampling points per half width for the mean of a cell, and their largest number per cell.
FINENESS, MOST_POINTS = 4, 15
# Relative difference below which spacings count as equal.
EVEN = 1e-4


@dataclass(frozen=True, eq=False)
class Kernel:
    """Uniform weights.

    Attributes
    ----------
    values : array of float64
        Weights by offset along each axis; they add up to one.
    centre : tuple of int
        Offset zero.
    periodic : tuple of bool
        Axes that close a circle.
    steps : tuple of float
        Distances of neighbours along each axis.
    """

    values: Floats
    centre: tuple[int, ...]
    periodic: tuple[bool, ...]
    steps: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class RowKernels:
    """Densities by receiving row, difference of rows and difference of columns.

    Attributes
    ----------
    values : array, shape (n_rows, 2 * reach + 1, 2 * width + 1)
        Density at receiving row ``i`` from row ``i + k - reach``, by column offset.
    reach, width : int
        Rows and columns to each side.
    periodic : bool
        Whether columns close a circle.
    middle : Kernel
        The weights at a middle latitude, as a uniform approximation.
    rows, columns : arrays of float64, shapes (n_rows - 1,) and (n_rows,)
        Distances in metres of neighbouring rows, and of neighbours within each row.
    """

    values: Floats
    reach: int
    width: int
    periodic: bool
    middle: Kernel
    rows: Floats
    columns: Floats


AnyKernel = Kernel | RowKernels


def cell_kernel(psf: AnyPsf, shape: tuple[int, ...], periodic: tuple[bool, ...] | None = None) -> Kernel:
    """Return the weights of a point-spread function in cells of a plain array of 1 to 3 dimensions.

    Raises
    ------
    ShapeError
        If it has other dimensions than the array, or is larger.
    OptionError
        If it is in metres.

    Examples
    --------
    >>> cell_kernel(Psf("box", 3.0, unit="cells"), (9,)).values.round(3).tolist()
    [0.0, 0.0, 0.333, 0.333, 0.333, 0.0, 0.0]
    """
    closed = (False,) * len(shape) if periodic is None else tuple(periodic)
    if isinstance(psf, ArrayPsf):
        size = psf.values.shape
        if len(size) != len(shape):
            raise ShapeError(
                f"expected a point-spread function of {len(shape)} dimensions, one per axis, received shape {size}"
            )
        _require_within(size, shape)
        assert psf.centre is not None
        return Kernel(psf.values, psf.centre, closed, (1.0,) * len(shape))
    if psf.unit != "cells":
        raise OptionError(f"expected a point-spread function in cells for a plain array, received {psf}; try '3cells'")
    return _plane_kernel(psf, (1.0,) * len(shape), shape, closed)


def grid_kernel(psf: AnyPsf, grid: Any) -> AnyKernel:
    """Return the weights of a point-spread function on a grid: by rows on the sphere, else uniform.

    Raises
    ------
    GridError
        If columns, or rows of a plane, are not equally spaced, or the grid is not a product of two axes.
    ShapeError
        If the point-spread function is larger than the field.
    """
    if not isinstance(grid, RectilinearGrid):
        raise GridError("expected rows and columns of one latitude and longitude each, or metres, for a point-spread "
                        "function, received a curvilinear grid; bring the field to a regular grid first")  # fmt: skip
    if psf.unit == "cells":
        return cell_kernel(psf, grid.shape, (False, grid.x.periodic))
    assert isinstance(psf, Psf)
    step_x = _even_step(grid.x.edges, "columns")
    if grid.spherical:
        return _row_kernels(psf, grid, np.deg2rad(step_x))
    return _plane_kernel(psf, (_even_step(grid.y.edges, "rows"), step_x), grid.shape, (False, False))


def _even_step(edges: Floats, noun: str) -> float:
    steps = np.diff(edges)
    if np.ptp(steps) > EVEN * abs(steps.mean()):
        raise GridError(
            f"expected equally spaced {noun} for a point-spread function in metres, received steps from "
            f"{np.abs(steps).min():g} to {np.abs(steps).max():g}; interpolate to a regular grid first"
        )
    return float(steps.mean())


def _require_within(size: tuple[float, ...], shape: tuple[float, ...], unit: str = "cells") -> None:
    if any(psf > field for psf, field in zip(size, shape, strict=True)):
        psf, field = (" x ".join(f"{n:g}" for n in sizes) for sizes in (size, shape))
        raise ShapeError(
            f"expected a point-spread function no larger than the field of {field} {unit}, received {psf}; check its "
            "unit, or choose a larger region"
        )


def _plane_kernel(psf: Psf, steps: tuple[float, ...], shape: tuple[int, ...], periodic: tuple[bool, ...]) -> Kernel:
    """Return the mean density over each cell around the source; vertical axis first if there are three."""
    size = tuple(psf.wide / abs(step) for step in steps)
    _require_within(size, tuple(float(n) for n in shape))
    axes, count = [], []
    for step, cells, closed in zip(steps, shape, periodic, strict=True):
        half = (cells - 1) // 2 if closed else cells - 1
        reach = min(int(np.ceil(psf.radius / abs(step))), half)
        points = _count_points(abs(step) / psf.narrow)
        offsets_in_cells = np.arange(-reach, reach + 1)[:, None] + _point_offsets(points)
        axes.append(offsets_in_cells.ravel() * step)
        count.append((2 * reach + 1, points))
    offsets = np.meshgrid(*axes, indexing="ij")
    density = psf.density(offsets[-1], offsets[-2] if len(axes) > 1 else np.zeros_like(offsets[-1]),
                          offsets[0] if len(axes) > 2 else 0.0)  # fmt: skip
    means = density.reshape([n for pair in count for n in pair]).mean(axis=tuple(range(1, 2 * len(count), 2)))
    centre = tuple(n // 2 for n in means.shape)
    return Kernel(means / means.sum(), centre, periodic, tuple(abs(step) for step in steps))


def _count_points(cells: float) -> int:
    """Return the number of sampling points of a cell, odd to include its centre, for its size in half widths."""
    return min(2 * int(np.ceil(FINENESS * cells / 2)) + 1, MOST_POINTS)


def _point_offsets(points: int) -> Floats:
    return (np.arange(points) - points // 2) / points


def _row_kernels(psf: Psf, grid: RectilinearGrid, step_x: float) -> RowKernels:
    """Return densities between pairs of rows, the same in both directions."""
    lat, n_y, n_x = np.deg2rad(grid.y.centres), *grid.shape
    height = np.deg2rad(np.diff(grid.y.edges))
    span = np.ptp(np.deg2rad(grid.y.edges)), n_x * abs(step_x) * np.cos(lat).max()
    _require_within((psf.wide, psf.wide), (span[0] * EARTH_RADIUS, span[1] * EARTH_RADIUS), "m")
    angle = psf.radius / EARTH_RADIUS
    reach = min(int(np.ceil(angle / np.abs(height).min())) + 1, n_y - 1)
    width = _count_columns(lat, angle, abs(step_x), n_x, grid.x.periodic)
    offsets = np.arange(-width, width + 1)
    values = np.zeros((n_y, 2 * reach + 1, offsets.size))
    for i in range(n_y):
        source = np.arange(max(i - reach, 0), min(i + reach + 1, n_y))
        source = source[np.abs(lat[source] - lat[i]) <= angle + np.abs(height[i])]
        half_width = _count_columns(lat[[i]], angle, abs(step_x), n_x, grid.x.periodic)
        window = slice(width - half_width, width + half_width + 1)
        values[i, source - i + reach, window] = _densities(psf, lat[i], height[i], lat[source], step_x, offsets[window])
    if grid.x.periodic and 2 * width == n_x:
        # The column half around the circle is reached from both sides.
        values[..., [0, -1]] *= 0.5
    # Each row counts as its area.
    counts = np.ceil(100 * np.cos(lat) + 1e-9).astype(np.int64)
    middle = int(np.abs(np.abs(lat) - np.median(np.repeat(np.abs(lat), counts))).argmin())
    steps = EARTH_RADIUS * height[middle], EARTH_RADIUS * step_x * np.cos(lat[middle])
    uniform = _plane_kernel(psf, steps, (max(n_y, 2 * reach + 1), max(n_x, 2 * width + 1)), (False, False))
    distances = np.abs(np.diff(lat)) * EARTH_RADIUS, np.abs(step_x) * np.cos(lat) * EARTH_RADIUS
    return RowKernels(_symmetrise(values, reach, psf.round), reach, width, grid.x.periodic, uniform, *distances)


def _count_columns(lat: Floats, angle: float, step: float, size: int, periodic: bool) -> int:
    """Return the columns to each side within a distance, at most half the circle."""
    ratio = np.sin(min(angle, np.pi / 2)) / np.maximum(np.cos(np.minimum(np.abs(lat) + angle / 2, np.pi / 2)), 1e-12)
    reach = int(np.ceil(np.arcsin(min(float(ratio.max()), 1.0)) / step)) + 1 if ratio.max() < 1 else size
    return min(reach, size // 2 if periodic else size - 1)


def _densities(psf: Psf, lat: float, height: float, source: Floats, step: float, columns: NDArray[Any]) -> Floats:
    """Return mean densities over the cells of one row, shape (sources, columns)."""
    rows = _count_points(abs(height) * EARTH_RADIUS / psf.narrow)
    across = _count_points(abs(step) * np.cos(lat) * EARTH_RADIUS / psf.narrow)
    phi = (lat + height * _point_offsets(rows))[None, :, None, None]
    angle = (columns[:, None] + _point_offsets(across))[None, None] * step
    origin = source[:, None, None, None]
    east = np.cos(phi) * np.sin(angle)
    north = np.sin(phi - origin) + 2 * np.sin(origin) * np.cos(phi) * np.sin(angle / 2) ** 2
    half = np.sin((phi - origin) / 2) ** 2 + np.cos(phi) * np.cos(origin) * np.sin(angle / 2) ** 2
    distance = 2 * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))
    scale = EARTH_RADIUS * distance / np.maximum(np.sin(distance), 1e-300)
    scale = np.where(distance > 0, scale, EARTH_RADIUS)
    return psf.density(east * scale, north * scale).mean(axis=(1, 3))


def _symmetrise(values: Floats, reach: int, even: bool) -> Floats:
    """Return symmetric densities: that from A to B equals that from B to A (and of its mirror image, if round)."""
    values = 0.5 * (values + values[..., ::-1]) if even else values
    n_y = len(values)
    symmetric = np.empty_like(values)
    rows = np.arange(n_y)
    for k in range(2 * reach + 1):
        source = rows + k - reach
        valid = (source >= 0) & (source < n_y)
        reverse = np.zeros_like(values[:, 0])
        reverse[valid] = values[source[valid], 2 * reach - k, ::-1]
        symmetric[:, k] = 0.5 * (values[:, k] + reverse)
    return symmetric


class Instrument:
    """A point-spread function on the cells of a grid, or of a plain array.

    Parameters
    ----------
    psf : Psf or ArrayPsf
        The footprint.
    grid : RectilinearGrid, optional
        Grid of the cells.
    shape, periodic : tuples, optional
        Shape and closed axes of a plain array of 1 to 3 dimensions, instead of a grid.
    """

    def __init__(
        self, psf: AnyPsf, grid: Any = None, shape: tuple[int, ...] | None = None,
        periodic: tuple[bool, ...] | None = None,
    ) -> None:  # fmt: skip
        self.psf, self.grid, self.periodic = psf, grid, periodic
        self.shape = tuple(grid.shape if shape is None else shape)
        # Used by `blur.find_blur`.
        self.blurs: OrderedDict[Any, Any] = OrderedDict()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Cached properties are not sent to workers.
        return {"psf": self.psf, "grid": self.grid, "shape": self.shape, "periodic": self.periodic}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @cached_property
    def kernel(self) -> AnyKernel:
        """Weights of the point-spread function."""
        if self.grid is None:
            return cell_kernel(self.psf, self.shape, self.periodic)
        return grid_kernel(self.psf, self.grid)

    @property
    def area(self) -> NDArray[np.float64] | None:
        """Cell areas, None if all are equal."""
        return None if self.grid is None else self.grid.cell_area
