"""The error classes; knows nothing of the rest of the package.

Every message is one line: what was expected, what was received, what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Longer messages hide what they say; more names than this are counted instead of listed.
LONGEST_MESSAGE, MOST_NAMES = 640, 40
LINE_END = re.compile(r"\s*[\r\n]+\s*")
# Control characters, separators of lines and characters that turn the direction of text: they come from names in
# files, and a terminal would act on them.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return a text in which every character that a terminal or a file would act on is escaped.

    Examples
    --------
    >>> print(printable("tas\x1b[31m\n"))
    tas\x1b[31m\n
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def one_line(message: object) -> str:
    r"""Return a message as one printable line of bounded length; of a longer one the middle is left out.

    Examples
    --------
    >>> one_line("expected numbers,\n  received words")
    'expected numbers, received words'
    """
    line = printable(LINE_END.sub(" ", str(message).strip()))
    if len(line) <= LONGEST_MESSAGE:
        return line
    # What was expected comes first, what to do comes last.
    half = LONGEST_MESSAGE // 2 - 20
    return f"{line[:half]} ({len(line) - 2 * half} characters more) {line[-half:]}"


class DownscaleError(ValueError):
    """Base of every error that a wrong request or a wrong input can raise; its message is one printable line."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class GridError(DownscaleError):
    """Coordinates, bounds or nesting of grids are not usable."""


class ShapeError(DownscaleError):
    """Sizes, factors, kernels or strides do not fit together."""


class OptionError(DownscaleError):
    """A name, key or value is not among the legal ones."""


class InputError(DownscaleError):
    """A file or a variable is missing, unreadable or not of the expected kind."""


class OutputError(DownscaleError):
    """The output cannot be written at the requested place."""


class BoundsError(DownscaleError):
    """A coarse value lies outside the bounds that its fine values must keep."""


class ConservationError(DownscaleError):
    """A sum-to-one law (total, phase or cell) does not hold to its tolerance."""


def listing(names: Iterable[object]) -> str:
    """Join names for an error message; the first ones and a count where there are many.

    Examples
    --------
    >>> listing(["sobolev", "bilinear"])
    "'sobolev', 'bilinear'"
    """
    every = [repr(name) for name in names]
    more = len(every) - MOST_NAMES
    return ", ".join(every if more <= 1 else [*every[:MOST_NAMES], f"and {more} more"])


def counted(count: int, noun: str) -> str:
    """Return a number and what is counted, one or several.

    Examples
    --------
    >>> counted(1, "block"), counted(3, "worker")
    ('1 block', '3 workers')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
