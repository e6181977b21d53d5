"""Point-spread functions of instruments.

Sizes are full widths at half maximum, in metres on the earth or in cells. A function is defined by its density relative
to its peak. The weights on a grid add up to one because each cell gives away its whole flux (total conservation).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import j1

from downscale.errors import OptionError, ShapeError, listing

Floats = NDArray[np.float64]
UNITS = {"m": 1.0, "km": 1000.0, "cell": 1.0, "cells": 1.0}
NUMBER = "[0-9.eE+-]+"
WORDS = re.compile(rf"(?P<size>{NUMBER}?)(?:x(?P<other>{NUMBER}?))?(?P<unit>km|m|cells?)(?:@(?P<turn>{NUMBER}))?")
# Cut-off of the tails in half widths: a Gaussian then lacks 4e-5 of its energy, an Airy disc 2 %.
CUTOFF = {"gaussian": 3.83, "airy": 16.0, "box": np.sqrt(2.0)}
# Half width at half maximum of an Airy disc in units of its argument.
AIRY_HALF = 1.616339948310703
# Relative error of the sum of an array that counts as rounding.
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Psf:
    """A point-spread function of a standard shape.

    Parameters
    ----------
    shape : {"gaussian", "box", "airy"}
        Its kind.
    size : float
        Full width at half maximum along its own axis, in ``unit``; the width of a box.
    across : float, optional
        Width across that axis; ``size`` by default (an Airy disc is round).
    orientation : float
        Direction of that axis in degrees clockwise from north.
    unit : {"m", "cells"}
        Metres on the earth or on the plane of a projection, or cells of the array.

    Examples
    --------
    >>> Psf("gaussian", 2.0, unit="cells").density(np.zeros(2), np.array([0.0, 1.0])).round(3).tolist()
    [1.0, 0.5]
    """

    shape: str
    size: float
    across: float | None = None
    orientation: float = 0.0
    unit: str = "m"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise OptionError(f"expected a point-spread function among {listing(SHAPES)}, received {self.shape!r}")
        if self.unit not in ("m", "cells"):
            raise OptionError(f"expected the unit 'm' or 'cells' of a point-spread function, received {self.unit!r}")
        for size in (self.size, self.narrow, self.wide):
            if not np.isfinite(size) or size <= 0:
                raise OptionError(f"expected a positive size of a point-spread function, received {size:g}")
        if not np.isfinite(self.orientation):
            raise OptionError(f"expected an orientation in degrees, received {self.orientation:g}")
        if self.shape == "airy" and self.narrow != self.wide:
            raise OptionError(f"expected a round Airy disc, received {self.wide:g} x {self.narrow:g}; use 'gaussian'")

    @property
    def narrow(self) -> float:
        """The smaller of the two sizes."""
        return self.size if self.across is None else min(self.size, self.across)

    @property
    def wide(self) -> float:
        """The larger of the two sizes."""
        return self.size if self.across is None else max(self.size, self.across)

    @property
    def round(self) -> bool:
        """Whether the function is rotationally symmetric."""
        return self.shape != "box" and self.narrow == self.wide

    @property
    def radius(self) -> float:
        """Distance beyond which the function is zero."""
        return float(CUTOFF[self.shape] * self.wide / 2)

    def density(self, east: Floats, north: Floats, up: Floats | float = 0.0) -> Floats:
        """Return the density at offsets from the source, relative to its peak; zero beyond ``radius``."""
        angle = np.deg2rad(self.orientation)
        along = (north * np.cos(angle) + east * np.sin(angle)) / (self.size / 2)
        across = (east * np.cos(angle) - north * np.sin(angle)) / ((self.across or self.size) / 2)
        height = np.asarray(up) / (self.narrow / 2)
        is_inside = east**2 + north**2 + np.square(up) <= self.radius**2 * (1 + 1e-9)
        return np.where(is_inside, SHAPES[self.shape](along, across, height), 0.0)

    def __str__(self) -> str:
        scale, unit = (1000.0, "km") if self.unit == "m" and self.size >= 1000 else (1.0, self.unit)
        width = "" if self.across is None else f"x{self.across / scale:g}"
        angle = f"@{self.orientation:g}" if self.orientation else ""
        return f"{self.shape}:{self.size / scale:g}{width}{unit}{angle}"


@dataclass(frozen=True, eq=False)
class ArrayPsf:
    """A point-spread function as weights of cells, in the order of the array's axes.

    Parameters
    ----------
    values : array of 1 to 3 dimensions
        Weights that add up to one (total conservation).
    centre : tuple of int, optional
        The source cell; the middle one if all sizes are odd.
    normalise : bool
        Divide by the sum; otherwise a sum other than one is an error.

    Raises
    ------
    ShapeError
        If a size is even without a centre, or the centre is outside.
    OptionError
        If the weights do not add up to one, or are not finite.

    Examples
    --------
    >>> ArrayPsf(np.array([1.0, 2.0, 1.0]), normalise=True).values.tolist()
    [0.25, 0.5, 0.25]
    """

    values: Floats
    centre: tuple[int, ...] | None = None
    normalise: bool = False
    unit = "cells"

    def __post_init__(self) -> None:
        values = np.asarray(self.values, np.float64)
        if not 1 <= values.ndim <= 3 or not values.size:
            raise ShapeError(f"expected a point-spread function of 1 to 3 dimensions, received shape {values.shape}")
        if not np.isfinite(values).all():
            raise OptionError("expected finite weights of a point-spread function, received NaN or infinity")
        total, shape = float(values.sum()), values.shape
        if not (self.normalise and total > 0) and not abs(total - 1) <= SUM_TOLERANCE:
            raise OptionError(
                "expected a point-spread function whose weights add up to one, received a sum of "
                f"{total:.8g}; divide by it, or pass normalise=True"
            )
        middle = tuple(size // 2 for size in shape)
        if self.centre is None and any(size % 2 == 0 for size in shape):
            raise ShapeError(
                f"expected odd sizes of a point-spread function, received {shape}; state its centre, e.g. "
                f"centre={middle}"
            )
        centre = middle if self.centre is None else tuple(map(int, self.centre))
        if len(centre) != len(shape) or not all(0 <= p < size for p, size in zip(centre, shape, strict=True)):
            raise ShapeError(
                f"expected a centre within a point-spread function of shape {shape}, received {self.centre}"
            )
        object.__setattr__(self, "values", values / total)
        object.__setattr__(self, "centre", centre)

    def __str__(self) -> str:
        return "array:" + "x".join(str(size) for size in self.values.shape)


def _gaussian(along: Floats, across: Floats, up: Floats) -> Floats:
    return np.exp2(-(along**2 + across**2 + up**2))


def _box(along: Floats, across: Floats, up: Floats) -> Floats:
    edge = 1 + 1e-9
    return ((np.abs(along) <= edge) & (np.abs(across) <= edge) & (np.abs(up) <= edge)).astype(np.float64)


def _airy(along: Floats, across: Floats, up: Floats) -> Floats:
    """Return the intensity (2 J1(v) / v)^2 of a disc-shaped aperture."""
    v = AIRY_HALF * np.sqrt(along**2 + across**2 + up**2)
    small = v < 1e-4
    safe = np.where(small, 1.0, v)
    return np.where(small, 1.0, (2 * j1(safe) / safe) ** 2)


SHAPES: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {"gaussian": _gaussian, "box": _box, "airy": _airy}


def parse_psf(text: str) -> Psf:
    """Return the point-spread function for a text such as "gaussian:25km" or "gaussian:40x25km@30".

    Parameters
    ----------
    text : str
        Shape, full width at half maximum (along x across), unit (km, m, cells), and after ``@`` the direction of the
        first axis in degrees clockwise from north.

    Raises
    ------
    OptionError
        If the text does not have that form.

    Examples
    --------
    >>> parse_psf("gaussian:40x25km@30")
    Psf(shape='gaussian', size=40000.0, across=25000.0, orientation=30.0, unit='m')
    """
    shape, _, words = text.strip().partition(":")
    match = WORDS.fullmatch(words.strip())
    try:
        if match is None:
            raise ValueError
        unit = match["unit"]
        sizes = [None if match[key] is None else float(match[key]) * UNITS[unit] for key in ("size", "other")]
        angle = float(match["turn"] or 0.0)
    except ValueError:
        line = f"expected a point-spread function such as 'gaussian:25km' or 'gaussian:40x25km@30', received {text!r}"
        raise OptionError(line) from None
    assert sizes[0] is not None
    return Psf(shape, sizes[0], sizes[1], angle, "cells" if unit.startswith("cell") else "m")


AnyPsf = Psf | ArrayPsf


def pick_psf(psf: ArrayLike | AnyPsf | str) -> AnyPsf:
    """Return a point-spread function from an object, a text, or an array of weights; raises OptionError otherwise."""
    if isinstance(psf, (Psf, ArrayPsf)):
        return psf
    if isinstance(psf, str):
        return parse_psf(psf)
    if isinstance(psf, np.ndarray):
        return ArrayPsf(psf)
    raise OptionError(
        f"expected psf as words such as 'gaussian:25km', a Psf or an array of weights, received {type(psf).__name__}"
    )
