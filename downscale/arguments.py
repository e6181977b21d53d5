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


def parse_target(text: str | None) -> Any:
    """Return a file or a resolution as it is, or ``dim:frequency`` as a mapping.

    Examples
    --------
    >>> parse_target("time:D"), parse_target("0.25x0.25")
    ({'time': 'D'}, '0.25x0.25')
    """
    if text is None or ":" not in text or "/" in text or text.endswith(".nc"):
        return text
    pairs = [part.split(":", 1) for part in text.split(",")]
    if any(len(pair) != 2 or not all(word.strip() for word in pair) for pair in pairs):
        raise OptionError(f"expected target as a file, a resolution 0.25x0.25 or dim:frequency, received {text!r}")
    return {dim.strip(): wanted.strip() for dim, wanted in pairs}


def parse_packing(text: str | None) -> Any:
    """Return a whole number where the text is one, else the text.

    Examples
    --------
    >>> parse_packing("12"), parse_packing("int16")
    (12, 'int16')
    """
    return int(text) if text is not None and text.isdecimal() else text


def parse_attrs(pairs: list[str] | None) -> dict[str, str] | None:
    """Return attributes from ``NAME=VALUE`` words, None for none.

    Raises
    ------
    OptionError
        If a word has no name or no equals sign.

    Examples
    --------
    >>> parse_attrs(["institution=My institute"])
    {'institution': 'My institute'}
    """
    if not pairs:
        return None
    parts = [pair.partition("=") for pair in pairs]
    for (name, sign, _), pair in zip(parts, pairs, strict=True):
        if not name.strip() or not sign:
            raise OptionError(f"expected --attr NAME=VALUE, received {pair!r}")
    return {name.strip(): value for name, _, value in parts}
