"""The error classes; knows nothing of the rest of the package.

Every message is one line: what was expected, what was received, what to do.
"""

from __future__ import annotations


class DownscaleError(ValueError):
    """Base of every error that a wrong request or a wrong input can raise."""


class GridError(DownscaleError):
    """Coordinates, bounds or nesting of grids are not usable."""


class ShapeError(DownscaleError):
    """Sizes, factors, kernels or strides do not fit together."""


class OptionError(DownscaleError):
    """A name, key or value is not among the legal ones."""


class InputError(DownscaleError):
    """A file or a variable is missing, unreadable or not of the expected kind."""


class OutputError(DownscaleError):
    """The output cannot be written where it was asked for."""


class BoundsError(DownscaleError):
    """A coarse value lies outside the bounds that its fine values must keep."""


class ConservationError(DownscaleError):
    """A sum-to-one law (total, phase or cell) does not hold to its tolerance."""


def listing(names: object) -> str:
    """Join legal names for an error message.

    Examples
    --------
    >>> listing(["sobolev", "bilinear"])
    "'sobolev', 'bilinear'"
    """
    return ", ".join(repr(name) for name in names)  # type: ignore[attr-defined]
