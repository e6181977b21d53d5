"""One-dimensional axes of cells: edges, measure, refinement, nesting.

An axis is defined by its cell edges. The size of a cell is its *measure*: degrees of longitude, the sine of latitude,
metres on a projected grid, seconds, pascals or metres of a layer. On an axis that only counts it is one per cell.
Products of the measures of latitude and longitude are areas on the sphere.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from downscale.errors import GridError, ShapeError, spell

Kind = Literal["latitude", "longitude", "projected", "index", "time", "vertical"]
Edges = NDArray[np.float64]

FULL_CIRCLE = 360.0
# A longer step between neighbours is the seam of a convention; two cells of one circle are half a circle apart.
LONGEST_STEP = FULL_CIRCLE / 2 + 1e-6
# Two edges closer than this fraction of a cell are equal: far below any real misfit of grids.
EDGE_TOLERANCE = 1e-4
# Coordinates are often stored as float32, whose resolution near 360 degrees is a large fraction of a small cell. A few
# such steps, up to the second fraction of a cell, are no misfit either.
STORAGE_ROUNDING, STORAGE_LIMIT = 4 * float(np.finfo(np.float32).eps), 1e-2
# Bounds of neighbours with an overlap or gap up to this fraction of the narrower cell are an error of the file: the
# polar rows of FGOALS-f3-L have gaps of a quarter. A missing row leaves a gap of a whole cell.
MOST_SLIP = 1 / 3
# Steps that differ by less than this fraction are equal; those of Gaussian latitudes differ by ten times that. Steps
# of numbers with few decimals may differ by the second fraction, less than Gaussian ones do.
SAME_STEP, WRITTEN_STEP = 1e-3, 7e-3
# Maximum distance to a pole, absolute and as a fraction of a cell, of degrees with two decimals or summed in single
# precision; and maximum gap of a circle as a fraction of a cell: sums of 0.1 in single precision drift by a sixth.
ROUNDED_DEGREES, ROUNDED_CELL, ROUNDED_CIRCLE = 0.011, 0.1, 0.25


@dataclass(frozen=True, eq=False)
class CellAxis:
    """A sequence of adjoining cells along one coordinate.

    Parameters
    ----------
    edges : array of float64, shape (n + 1,)
        Cell edges, strictly monotone, in degrees (latitude, longitude), metres (projected), seconds (time), units of
        the vertical coordinate (vertical), or cells (index).
    kind : {"latitude", "longitude", "projected", "index", "time", "vertical"}
        Determines the measure of a cell.
    closed : bool
        Whether the last cell neighbours the first, for axes other than longitude (which is detected).

    Notes
    -----
    ``refine(factor)`` cuts every cell into ``factor`` parts that are equal in the coordinate. Coarse edges are kept bit
    for bit, and the measures of the parts add up to that of the whole.

    Examples
    --------
    >>> CellAxis(np.array([0.0, 10.0, 20.0]), "longitude").refine(2).edges
    array([ 0.,  5., 10., 15., 20.])
    """

    edges: Edges
    kind: Kind
    closed: bool = False

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges, dtype=np.float64)
        if edges.ndim != 1 or edges.size < 2:
            raise ShapeError(f"expected at least two cell edges in one dimension, received shape {edges.shape}")
        steps = np.diff(edges)
        if not np.isfinite(edges).all() or not ((steps > 0).all() or (steps < 0).all()):
            raise GridError(f"expected strictly monotone {self.kind} edges, received {edges[:6]}...; sort the axis")
        if self.kind == "latitude" and np.abs(edges).max() > 90:
            raise GridError(f"expected latitudes within -90 to 90, received {edges.min():g} to {edges.max():g}")
        if self.kind == "longitude" and np.ptp(edges) > FULL_CIRCLE * (1 + 1e-9):
            raise GridError(
                f"expected longitudes within one circle, received {np.ptp(edges):g} degrees; drop a repeated meridian"
            )
        object.__setattr__(self, "edges", edges)

    @property
    def size(self) -> int:
        """Number of cells."""
        return self.edges.size - 1

    @property
    def ascending(self) -> bool:
        """Whether the coordinate increases along the axis."""
        return bool(self.edges[-1] > self.edges[0])

    @cached_property
    def centres(self) -> NDArray[np.float64]:
        """Midpoints of the cells in the coordinate, shape (n,)."""
        return 0.5 * (self.edges[:-1] + self.edges[1:])

    @cached_property
    def periodic(self) -> bool:
        """Whether the last cell neighbours the first: longitudes of a full circle, or an axis declared closed."""
        circle = self.kind == "longitude" and bool(np.isclose(np.ptp(self.edges), FULL_CIRCLE, rtol=0, atol=1e-6))
        return circle or self.closed

    @property
    def period(self) -> float | None:
        """Length of the circle in the coordinate, or None for an open axis."""
        if not self.periodic:
            return None
        return FULL_CIRCLE if self.kind == "longitude" else float(np.ptp(self.edges))

    @property
    def measure_period(self) -> float | None:
        """Length of the circle in the measure coordinate, or None for an open axis."""
        period = self.period
        return float(np.deg2rad(period)) if period is not None and self.kind == "longitude" else period

    @cached_property
    def measure_edges(self) -> Edges:
        """Edges in the measure coordinate: sin(latitude), radians of longitude, else the coordinate itself."""
        return measure_edges_of(self.edges, self.kind)

    @cached_property
    def measure(self) -> NDArray[np.float64]:
        """Measures of the cells, positive, shape (n,)."""
        return measure_of(self.edges[:-1], self.edges[1:], self.kind)

    def refine(self, factor: int) -> CellAxis:
        """Return the axis with each cell cut into ``factor`` parts that are equal in the coordinate."""
        check_factor(factor)
        start, step = self.edges[:-1, None], np.diff(self.edges)[:, None] / factor
        fine = start + step * np.arange(factor)
        return CellAxis(np.append(fine.ravel(), self.edges[-1]), self.kind, self.closed)

    def coarsen(self, factor: int) -> CellAxis:
        """Return the axis with ``factor`` neighbours joined into one cell; the number of cells must be a multiple."""
        check_factor(factor)
        if self.size % factor:
            raise ShapeError(
                f"expected a {self.kind} axis of a multiple of {factor} cells, received {self.size}; crop it first"
            )
        return CellAxis(self.edges[::factor], self.kind, self.closed)

    def reverse(self) -> CellAxis:
        """Return the same cells in the opposite order."""
        return CellAxis(self.edges[::-1], self.kind, self.closed)

    def nest_factor(self, fine: CellAxis) -> int | None:
        """Return the integer by which ``fine`` refines this axis cell by cell in the same order, else None.

        Fine cells need not be equal: every coarse edge must be a fine edge at even index steps.
        """
        factor, remainder = divmod(fine.size, self.size)
        if remainder or factor < 1 or fine.kind != self.kind:
            return None
        tolerance = edge_tolerance(fine.edges, np.diff(fine.edges))
        return factor if np.allclose(fine.edges[::factor], self.edges, rtol=0, atol=tolerance) else None

    def fine_fractions(self, fine: CellAxis) -> NDArray[np.float64]:
        """Return the fraction of each fine cell in the measure of its coarse cell, shape (n_fine,); adds up to one."""
        parts = fine.measure.reshape(self.size, -1)
        return (parts / parts.sum(axis=1, keepdims=True)).ravel()


def measure_edges_of(edges: NDArray[np.float64], kind: Kind) -> NDArray[np.float64]:
    """Return edges in the measure coordinate of a kind."""
    if kind == "latitude":
        return np.sin(np.deg2rad(edges))
    return np.deg2rad(edges) if kind == "longitude" else edges


def measure_of(start: NDArray[np.float64], stop: NDArray[np.float64], kind: Kind) -> NDArray[np.float64]:
    """Return the measures, positive, of cells between two edges."""
    if kind == "latitude":
        # sin(b) - sin(a) = 2 cos(mean) sin(half width): no digits are lost near the poles.
        half = np.deg2rad(np.abs(stop - start)) / 2
        return 2 * np.cos(np.deg2rad(0.5 * (start + stop))) * np.sin(half)
    width = np.abs(stop - start)
    # Converted after the subtraction: equal columns are bit-identical at any longitude.
    return np.deg2rad(width) if kind == "longitude" else width


def check_factor(factor: object) -> int:
    """Return ``factor`` as an int; raise ``ShapeError`` if it is not a whole number of at least one.

    Examples
    --------
    >>> check_factor(4)
    4
    """
    is_integer = isinstance(factor, (int, np.integer)) and not isinstance(factor, bool)
    if not is_integer or int(factor) < 1:  # type: ignore[call-overload]
        raise ShapeError(f"expected {spell('factor')} to be a whole number of at least 1, received {factor!r}")
    return int(factor)  # type: ignore[call-overload]


def edge_tolerance(edges: NDArray[np.float64], widths: NDArray[np.float64]) -> float:
    """Return the largest distance of two stored edges that count as equal."""
    cell, rounding = float(np.abs(widths).min()), STORAGE_ROUNDING * float(np.abs(edges).max())
    return max(EDGE_TOLERANCE * cell, min(rounding, STORAGE_LIMIT * cell))


def _check_centres(centres: NDArray[np.float64], kind: Kind) -> None:
    if centres.ndim != 1 or centres.size == 0:
        raise GridError(f"expected a one-dimensional {kind} coordinate, received shape {centres.shape}")
    if not np.isfinite(centres).all():
        raise GridError(f"expected finite {kind} coordinates, received NaN or infinity; drop those rows")
    if kind == "latitude" and np.abs(centres).max() > 90 + _pole_tolerance(centres):
        worst = centres[np.abs(centres).argmax()]
        raise GridError(f"expected latitudes within -90 to 90, received {worst:g}; check units or axis names")


def _pole_tolerance(latitudes: NDArray[np.float64]) -> float:
    """Return how far beyond a pole rounding may put a latitude."""
    steps = np.abs(np.diff(latitudes))
    return max(min(ROUNDED_CELL * float(steps.min()), ROUNDED_DEGREES), 1e-6) if steps.size else 1e-6


def _check_order(centres: NDArray[np.float64], kind: Kind) -> None:
    steps = np.diff(centres)
    if (steps == 0).any():
        value = centres[:-1][steps == 0][0]
        raise GridError(f"expected distinct {kind} coordinates, received {value:g} twice; drop the duplicate")
    if not ((steps > 0).all() or (steps < 0).all()):
        worst = int(np.flatnonzero(np.sign(steps) != np.sign(np.median(np.sign(steps)) or steps[0]))[0])
        raise GridError(
            f"expected sorted {kind} coordinates, received {centres[worst]:g} before {centres[worst + 1]:g} at index "
            f"{worst}; sort the axis first"
        )


def unwrap_longitude(centres: ArrayLike) -> NDArray[np.float64]:
    """Return longitudes without the jump of 360 degrees of a region that crosses the seam of the convention.

    Examples
    --------
    >>> unwrap_longitude([350.0, 355.0, 0.0, 5.0])
    array([350., 355., 360., 365.])
    """
    values = np.asarray(centres, dtype=np.float64)
    steps = np.diff(values)
    jumps = np.flatnonzero(np.abs(steps) > LONGEST_STEP)
    # Exactly one jump, against the direction of all other steps, is a seam; anything else is disorder.
    if jumps.size != 1:
        return values
    unwrapped = values.copy()
    unwrapped[jumps[0] + 1 :] -= np.sign(steps[jumps[0]]) * FULL_CIRCLE
    return unwrapped


def axis_from_centres(centres: ArrayLike, kind: Kind) -> CellAxis:
    """Return an axis with edges midway between centres and extrapolated outer edges.

    Latitude edges are clipped at the poles; longitudes that nearly close the circle close it exactly.

    Raises
    ------
    GridError
        For a single cell (of unknown width), unsorted, duplicate, non-finite or impossible coordinates.
    """
    values = np.asarray(centres, dtype=np.float64)
    _check_centres(values, kind)
    values = unwrap_longitude(values) if kind == "longitude" else values
    if values.size == 1:
        raise GridError(f"expected bounds for a {kind} axis of one cell, received none; add CF bounds")
    _check_order(values, kind)
    middle = 0.5 * (values[:-1] + values[1:])
    edges = np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])
    return CellAxis(_clip_or_close(edges, kind), kind)


def is_evenly_spaced(centres: ArrayLike, kind: Kind) -> bool:
    """Return whether neighbours are equally far apart, within the rounding of stored coordinates.

    Examples
    --------
    >>> is_evenly_spaced([1.88, 3.75, 5.62], "longitude"), is_evenly_spaced([0.0, 1.0, 3.0], "latitude")
    (True, False)
    """
    values = np.asarray(centres, dtype=np.float64)
    steps = np.diff(unwrap_longitude(values) if kind == "longitude" else values)
    if steps.size < 2:
        return True
    step = float(np.abs(steps.mean()))
    rounding = STORAGE_ROUNDING * float(np.abs(values).max())
    # Numbers of a few decimals: the last one may be wrong by half at either end of a step.
    decimal_error = next((10.0**-n for n in (2, 3, 4) if np.abs(np.round(values, n) - values).max() <= rounding), 0.0)
    return bool(np.ptp(steps) <= max(SAME_STEP * step, min(2 * rounding + decimal_error, WRITTEN_STEP * step)))


def axis_from_bounds(bounds: ArrayLike, kind: Kind, centres: ArrayLike | None = None, name: str = "") -> CellAxis:
    """Return an axis from CF bounds of shape (n, 2), which must adjoin.

    With centres, longitudes are on the branch of the first centre, whatever the branch of the bounds. Overlaps or gaps
    of less than a third of a cell are closed midway, with a warning that names the coordinate.

    Raises
    ------
    GridError
        If overlaps or gaps are larger, or bounds do not contain their centres.
    """
    pairs = np.asarray(bounds, dtype=np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise GridError(f"expected {kind} bounds of shape (n, 2), received {pairs.shape}")
    if not np.isfinite(pairs).all():
        raise GridError(f"expected finite {kind} bounds, received NaN or infinity; drop the bounds or repair them")
    middle = None if centres is None else np.asarray(centres, dtype=np.float64)
    if middle is not None:
        _check_centres(middle, kind)
        if len(middle) != len(pairs):
            raise GridError(f"expected {len(middle)} pairs of {kind} bounds, received {len(pairs)}; drop the bounds")
    pairs = _order_pairs(_unwrap_bounds(pairs, middle) if kind == "longitude" else pairs, kind)
    pairs = _join_bounds(pairs, middle, kind, f"coordinate {name!r}" if name else f"{kind} axis")
    axis = CellAxis(_clip_or_close(np.append(pairs[:, 0], pairs[-1, 1]), kind), kind)
    return axis if middle is None else _move_to_centres(axis, middle)


def _unwrap_bounds(pairs: NDArray[np.float64], centres: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return longitudes on one branch: cells that cross the seam are closed, [359.5, 360.5], then all are chained."""
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    crosses = high - low > FULL_CIRCLE / 2 if len(pairs) > 1 else np.array([centres is not None])
    if centres is not None:
        # The centre shows on which side of its bounds a wide or a single cell is. At most one cell of a circle is wider
        # than its complement, and its centre is far from the middle of the complement.
        is_far = np.abs((centres - 0.5 * (low + high) + 180) % FULL_CIRCLE - 180) > FULL_CIRCLE / 4
        crosses |= is_far & (is_far.sum() == 1)
        crosses &= (centres - low + 1e-6) % FULL_CIRCLE > high - low + 2e-6
    pairs = np.where(crosses[:, None], np.stack([high, low + FULL_CIRCLE], axis=1), pairs)
    middle = pairs.mean(axis=1)
    return pairs + (unwrap_longitude(middle) - middle)[:, None]


def _order_pairs(pairs: NDArray[np.float64], kind: Kind) -> NDArray[np.float64]:
    """Return the pairs, each ordered along the axis."""
    middle = pairs.mean(axis=1)
    _check_order(middle, kind)
    ascending = middle[-1] > middle[0] if len(middle) > 1 else pairs[0, 1] > pairs[0, 0]
    pairs = np.sort(pairs, axis=1)
    return pairs if ascending else pairs[:, ::-1]


def _join_bounds(
    pairs: NDArray[np.float64], centres: NDArray[np.float64] | None, kind: Kind, label: str
) -> NDArray[np.float64]:
    """Return adjoining bounds, each starting at the end of the previous one; repair small faults with a warning."""
    widths = np.abs(pairs[:, 1] - pairs[:, 0])
    gaps = np.abs(pairs[1:, 0] - pairs[:-1, 1])
    unmatched = gaps > max(edge_tolerance(pairs, widths), 1e-9)
    if not unmatched.any():
        return pairs
    too_large = gaps > MOST_SLIP * np.minimum(widths[1:], widths[:-1])
    worst = int((gaps * too_large if too_large.any() else gaps).argmax())
    received = f"{pairs[worst].tolist()} before {pairs[worst + 1].tolist()} (rows {worst} and {worst + 1})"
    if too_large.any():
        raise GridError(
            f"expected adjoining {kind} cells, received {received}; sort the axis, select without a step (coarsen "
            "averages whole cells), or repair the bounds"
        )
    # Midway between centres, but no further than either cell extends.
    positions = pairs.mean(axis=1) if centres is None or kind == "longitude" else centres
    edges = np.clip(
        0.5 * (positions[1:] + positions[:-1]),
        np.minimum(pairs[1:, 0], pairs[:-1, 1]),
        np.maximum(pairs[1:, 0], pairs[:-1, 1]),
    )
    pairs = pairs.copy()
    pairs[1:, 0][unmatched] = pairs[:-1, 1][unmatched] = edges[unmatched]
    remedy = f"the edge between them is put midway, at {pairs[worst, 1]:g}"
    # The fault that shortens polar rows also shortens them at the pole.
    polar = [(row, end) for row, end in ((0, 0), (-1, 1)) if kind == "latitude" and unmatched[row]
             and 0 < 90.0 - abs(pairs[row, end]) <= MOST_SLIP * widths[row]]  # fmt: skip
    for row, end in polar:
        pairs[row, end] = np.copysign(90.0, pairs[row, end])
    remedy += "; the outer row is extended to the pole" if polar else ""
    more = f" (and at {int(unmatched.sum()) - 1} more places)" if unmatched.sum() > 1 else ""
    warnings.warn(f"{label}: bounds do not adjoin, received {received}{more}; {remedy}", UserWarning, stacklevel=2)
    return pairs


def _move_to_centres(axis: CellAxis, centres: NDArray[np.float64]) -> CellAxis:
    """Return the axis with longitudes on the branch of the first centre; raise ``GridError`` if a centre is outside."""
    turns = np.round((axis.centres - centres) / FULL_CIRCLE) if axis.kind == "longitude" else np.zeros(axis.size)
    positions, edges = centres + turns * FULL_CIRCLE, axis.edges
    tolerance = edge_tolerance(edges, np.diff(edges))
    low, high = np.minimum(edges[:-1], edges[1:]) - tolerance, np.maximum(edges[:-1], edges[1:]) + tolerance
    outliers = np.flatnonzero((positions < low) | (positions > high))
    if outliers.size:
        pair = edges[outliers[0] : outliers[0] + 2].tolist()
        raise GridError(
            f"expected {axis.kind} bounds around their centres, received {pair} for {centres[outliers[0]]:g}; "
            "repair the bounds or drop them"
        )
    return CellAxis(edges - turns[0] * FULL_CIRCLE, axis.kind) if turns[0] else axis


def _clip_or_close(edges: Edges, kind: Kind) -> Edges:
    """Return the edges with latitudes clipped at the poles and a circle closed that is open only by rounding."""
    if kind == "latitude":
        return np.clip(edges, -90.0, 90.0)
    if kind == "longitude":
        widths = np.abs(np.diff(edges))
        span = edges[-1] - edges[0]
        misfit, circle = abs(abs(span) - FULL_CIRCLE), np.sign(span) * FULL_CIRCLE
        if misfit < max(1e-3 * widths.min(), edge_tolerance(edges, widths)):
            edges = edges.copy()
            edges[-1] = edges[0] + circle
        elif widths.size > 3 and misfit < ROUNDED_CIRCLE * min(widths[0], widths[-1], widths.min() * 1.5):
            # Every cell takes its part of the gap left by rounding.
            edges = edges[0] + (edges - edges[0]) * (circle / span)
            edges[-1] = edges[0] + circle
    return edges


def extend_to_poles(axis: CellAxis, has_bounds: bool = False) -> CellAxis:
    """Return the axis with outer latitude cells extended to the poles across gaps of less than a third of a cell.

    Gaussian grids have no row at the pole, and midpoints leave a small cap that belongs to the last row. For cells with
    their own bounds only gaps from rounding are closed.
    """
    limit = ROUNDED_CELL if has_bounds else 1 / 3
    edges = axis.edges.copy()
    for end, inner in ((0, 1), (-1, -2)):
        gap, width = 90.0 - abs(edges[end]), abs(edges[end] - edges[inner])
        if 0 < gap < width * limit and not (has_bounds and gap > ROUNDED_DEGREES):
            edges[end] = np.copysign(90.0, edges[end])
    return CellAxis(edges, axis.kind)
