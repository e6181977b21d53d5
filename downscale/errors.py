"""Error classes and helpers for one-line messages.

Every message is one line: the expectation, the value received, the remedy.
"""

from __future__ import annotations

import contextvars
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

# Spelling of arguments in messages where it differs from Python's: "--orog" on the command line.
spelling: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar("spelling", default=None)
# Longer messages are hard to read; further names are counted instead of listed.
LONGEST_MESSAGE, MOST_NAMES = 640, 40
LINE_END = re.compile(r"\s*[\r\n]+\s*")
# Control characters, line separators and characters that change the direction of text. They occur in names in files,
# and a terminal would interpret them.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return a text with every character escaped that a terminal or a file would interpret.

    Examples
    --------
    >>> print(printable("tas\x1b[31m\n"))
    tas\x1b[31m\n
    """
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def one_line(message: object) -> str:
    r"""Return a message as one printable line; the middle of a long one is left out.

    Examples
    --------
    >>> one_line("expected numbers,\n  received words")
    'expected numbers, received words'
    """
    line = printable(LINE_END.sub(" ", str(message).strip()))
    if len(line) <= LONGEST_MESSAGE:
        return line
    # Keep the start (expectation) and the end (remedy).
    half = LONGEST_MESSAGE // 2 - 20
    return f"{line[:half]} ({len(line) - 2 * half} characters more) {line[-half:]}"


class DownscaleError(ValueError):
    """Base class of all errors raised by an invalid request or input; its message is one printable line."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class GridError(DownscaleError):
    """Coordinates, bounds or nesting of grids are not usable."""


class ShapeError(DownscaleError):
    """Sizes, factors, kernels or strides do not fit together."""


class OptionError(DownscaleError):
    """A name, key or value is not a legal one."""


class InputError(DownscaleError):
    """A file or a variable is missing, unreadable or not of the expected kind."""


class OutputError(DownscaleError):
    """The output cannot be written to the requested path."""


class BoundsError(DownscaleError):
    """A coarse value is outside the bounds of its fine values."""


class ConservationError(DownscaleError):
    """Cell, global or phase conservation fails its tolerance."""


def listing(names: Iterable[object]) -> str:
    """Return names joined for an error message; long lists end with a count.

    Examples
    --------
    >>> listing(["sobolev", "bilinear"])
    "'sobolev', 'bilinear'"
    """
    texts = [repr(name) for name in names]
    surplus = len(texts) - MOST_NAMES
    return ", ".join(texts if surplus <= 1 else [*texts[:MOST_NAMES], f"and {surplus} more"])


def pluralise(count: int, noun: str) -> str:
    """Return a count with its noun, singular or plural.

    Examples
    --------
    >>> pluralise(1, "block"), pluralise(3, "worker")
    ('1 block', '3 workers')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def spell(name: str, *value: Any) -> str:
    """Return an argument, and its value if there is one, as its user writes it.

    Examples
    --------
    >>> spell("conserve", "cell")
    "conserve='cell'"
    """
    spelled = (spelling.get() or {}).get(name, name)
    if not value:
        return spelled
    if spelled.startswith("-"):
        return f"{spelled} {'none' if value[0] is None else value[0]}"
    return f"{spelled}={value[0]!r}"
