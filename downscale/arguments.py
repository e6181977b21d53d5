"""Small grammars of command-line values (strings in, plain values out)."""

from __future__ import annotations

from typing import Any

from downscale.errors import OptionError


def parse_pairs(text: str, name: str) -> Any:
    """Return an int, or a dict from ``dim:int,dim:int``.

    Raises
    ------
    OptionError
        If it is neither.

    Examples
    --------
    >>> parse_pairs("lat:4,lon:2", "factor")
    {'lat': 4, 'lon': 2}
    """
    if ":" not in text:
        return _whole(text, name)
    pairs = [part.split(":", 1) for part in text.split(",")]
    if any(len(pair) != 2 or not pair[0].strip() for pair in pairs):
        raise OptionError(f"expected {name} as a whole number or dim:number,dim:number, received {text!r}")
    return {dim.strip(): _whole(value, name) for dim, value in pairs}


def _whole(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OptionError(
            f"expected {name} to be a whole number, or dim:number,dim:number, received {text!r}"
        ) from None


def parse_names(text: str | None) -> list[str] | None:
    """Return the names in ``NAME,NAME``, or None for none at all.

    Examples
    --------
    >>> parse_names("tas, pr")
    ['tas', 'pr']
    """
    return [name.strip() for name in text.split(",")] if text else None


def parse_bounds(text: str) -> Any:
    """Return "auto", None, or a pair from ``LOW:HIGH``; an empty side is open.

    Examples
    --------
    >>> parse_bounds("0:")
    (0.0, None)
    """
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    parts = text.split(":")
    try:
        low, high = (float(part) if part.strip() else None for part in parts)
    except ValueError:
        raise OptionError(f"expected bounds as auto, none or LOW:HIGH, received {text!r}") from None
    return low, high
