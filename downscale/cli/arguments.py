"""Parsers of command-line values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from downscale.errors import OptionError
from downscale.request import ARGUMENTS, QUANTITIES, Request, require_legal

ATTRIBUTE = re.compile(r"[A-Za-z_][\w.@+-]*")


def parse_pairs(text: str, name: str) -> Any:
    """Return an int, or a dict from ``dim:int,dim:int``.

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
    names = [dim.strip() for dim, _ in pairs]
    twice = [dim for dim in dict.fromkeys(names) if names.count(dim) > 1]
    if twice:
        raise OptionError(f"expected {name} for each dimension once, received {twice[0]!r} twice in {text!r}; drop one")
    return {dim.strip(): _whole(value, name) for dim, value in pairs}


def _whole(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        line = f"expected {name} to be a whole number, or dim:number,dim:number, received {text!r}"
        raise OptionError(line) from None


def parse_chunks(text: str) -> Any:
    """Return "auto", an int, or a dict from ``dim:int,dim:int``."""
    return text if text == "auto" else parse_pairs(text, "chunks")


def parse_pair(text: str | None) -> tuple[int, int] | None:
    """Return numbers for rows and columns from ``4`` or ``4,2``, or None from None.

    Examples
    --------
    >>> parse_pair("4"), parse_pair("4,2")
    ((4, 4), (4, 2))
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > 2 or not all(re.fullmatch(r"\s*-?\d+\s*", part) for part in parts):
        raise OptionError(f"expected factor as a whole number or rows,columns, received {text!r}; such as 4 or 4,2")
    return int(parts[0]), int(parts[-1])


def parse_names(text: str | None) -> list[str] | None:
    """Return the names in ``NAME,NAME``, or None from None.

    Examples
    --------
    >>> parse_names("tas, pr")
    ['tas', 'pr']
    """
    if not text:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise OptionError(f"expected --vars NAME,NAME, received {text!r}; leave it out for all variables")
    return names


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
    if not all(side is None or math.isfinite(side) for side in (low, high)):
        raise OptionError(f"expected finite bounds LOW:HIGH, received {text!r}; leave a side empty where there is none")
    return low, high


def parse_quantity(text: str | None) -> Any:
    """Return "intensive" or "extensive", or a mapping of these from ``NAME:QUANTITY,NAME:QUANTITY``, or None from None.

    Examples
    --------
    >>> parse_quantity("extensive"), parse_quantity("pr:extensive, tas:intensive")
    ('extensive', {'pr': 'extensive', 'tas': 'intensive'})
    """
    if text is None or text in QUANTITIES:
        return text
    pairs = [[word.strip() for word in part.rpartition(":")[::2]] for part in text.split(",")]
    if not all(name and quantity in QUANTITIES for name, quantity in pairs):
        raise OptionError(
            f"expected --quantity as intensive, extensive or NAME:QUANTITY,NAME:QUANTITY, received {text!r}"
        )
    return {name: quantity for name, quantity in pairs}


def parse_target(text: str | None) -> Any:
    """Return a file or a resolution unchanged, or ``dim:frequency`` as a mapping.

    Examples
    --------
    >>> parse_target("time:D"), parse_target("0.25x0.25")
    ({'time': 'D'}, '0.25x0.25')
    """
    if text is not None and re.fullmatch(r"[-+\d.,;eExX ]*", text) and not Path(text).is_file():
        if not re.fullmatch(r"[^xX,;]+[xX][^xX,;]+", text):
            raise OptionError(f'expected a resolution of rows x columns such as "0.25x0.25", received {text!r}')
        return text
    if text is None or ":" not in text or "/" in text or text.endswith(".nc"):
        return text
    pairs = [part.split(":", 1) for part in text.split(",")]
    if any(len(pair) != 2 or not all(word.strip() for word in pair) for pair in pairs):
        raise OptionError(f"expected target as a file, a resolution 0.25x0.25 or dim:frequency, received {text!r}")
    return {dim.strip(): frequency.strip() for dim, frequency in pairs}


def parse_packing(text: str | None) -> Any:
    """Return an integer if the text is one, else the text.

    Examples
    --------
    >>> parse_packing("12"), parse_packing("int16")
    (12, 'int16')
    """
    return int(text) if text is not None and text.isdecimal() else text


def parse_attrs(pairs: list[str] | None) -> dict[str, str] | None:
    """Return attributes from ``NAME=VALUE`` arguments, or None from None.

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
        if not ATTRIBUTE.fullmatch(name.strip()):
            raise OptionError(f"expected --attr with a name of letters, digits and underscores, received {name!r}")
    return {name.strip(): value for name, _, value in parts}


def _parse_conserve(text: str) -> str | None:
    return None if text == "none" else text


class _Option(NamedTuple):
    """An option of the command line for an argument of a request: spelling, syntax for the help, parser of the text."""

    flag: str
    syntax: str = ""
    parse: Callable[[str], Any] | None = None


OPTIONS = {
    "factor": _Option("--factor", "4, or by dimension lat:4,lon:2,time:30", lambda text: parse_pairs(text, "factor")),
    "target_grid": _Option("--target", "a file, 0.25x0.25, or time:D", parse_target),
    "mask": _Option("--mask", "a file"),
    "na_thres": _Option("--na-thres"),
    "method": _Option(
        "--method", "sobolev, conservative, bilinear, bicubic, cascade, rain, or MODEL.safetensors", str
    ),
    "members": _Option("--members"),
    "seed": _Option("--seed"),
    "smoothing": _Option("--smoothing"),
    "data_vars": _Option("--vars", "e.g. tas,pr", parse_names),
    "orog": _Option("--orog", "a file"),
    "lapse_rate": _Option("--lapse-rate", "needs --orog"),
    "footprint": _Option("--footprint", "gaussian:25km"),
    "conserve": _Option("--conserve", "cell, total or none", _parse_conserve),
    "bounds": _Option("--bounds", "auto, none, or LOW:HIGH (either may be empty)", parse_bounds),
    "quantity": _Option("--quantity", "intensive, extensive, or by variable pr:extensive", parse_quantity),
    "tolerance": _Option("--tolerance"),
    "device": _Option("--device", "auto, cpu, or an accelerator"),
}  # fmt: skip
FLAGS = {name: entry.flag for name, entry in OPTIONS.items()}


def request_options() -> dict[str, tuple[Any, Any]]:
    """Return the options of a request: their annotations, with the help of its declaration, and their defaults."""
    options: dict[str, tuple[Any, Any]] = {}
    for field in fields(Request):
        if field.name in OPTIONS:
            flag, syntax, parse = OPTIONS[field.name]
            declared = ARGUMENTS[field.name]
            words = declared.help.removesuffix(".") + (f": {syntax}." if syntax else ".")
            kind = declared.plain if parse is None else str if field.default is not None else str | None
            options[field.name] = (Annotated[kind, typer.Option(flag, help=words)], field.default)
    return {name: options[name] for name in OPTIONS}


def parse_request(values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a request from the values of its options, removed from ``values``."""
    arguments = {name: values.pop(name) for name in OPTIONS}
    for name, text in arguments.items():
        parse = OPTIONS[name].parse
        arguments[name] = text if text is None or parse is None else parse(text)
        require_legal(name, arguments[name])
    return arguments
