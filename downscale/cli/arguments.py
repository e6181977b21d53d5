"""Options of commands for declared arguments, and parsers of their values."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from downscale.errors import OptionError, spell, spelling
from downscale.request import (
    ARGUMENTS,
    AUTO,
    CONSERVE,
    DECONVOLUTION,
    QUANTITIES,
    TRANSFORMS,
    Argument,
    require_legal,
)

ATTRIBUTE = re.compile(r"[A-Za-z_][\w.@+-]*")
FLAGS = {name: f"--{name.replace('_', '-')}" for name in (*ARGUMENTS, *DECONVOLUTION, *CONSERVE, "chunks", "law")}
FLAGS |= {"step": "--step", "target_grid": "--target", "data_vars": "--vars", "attrs": "--attr"}


def parse_pairs(text: str, name: str = "factor") -> Any:
    """Return an int, or a dict from ``dim:int,dim:int``.

    Examples
    --------
    >>> parse_pairs("lat:4,lon:2")
    {'lat': 4, 'lon': 2}
    """
    pairs = [part.rpartition(":")[::2] for part in text.split(",")]
    try:
        numbers = [int(value) for _, value in pairs]
    except ValueError:
        numbers = []
    dims = [dim.strip() for dim, _ in pairs]
    if not numbers or not (all(dims) or (dims == [""] and ":" not in text)):
        raise OptionError(f"expected {spell(name)} to be a whole number, or dim:number,dim:number, received {text!r}")
    repeated = [dim for dim in dims if dims.count(dim) > 1]
    if repeated:
        raise OptionError(
            f"expected {spell(name)} for each dimension once, received {repeated[0]!r} twice in {text!r}; drop one"
        )
    return dict(zip(dims, numbers, strict=True)) if all(dims) else numbers[0]


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
    if not re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*)?", text):
        raise OptionError(f"expected --factor as a whole number or rows,columns, received {text!r}; such as 4 or 4,2")
    parts = text.split(",")
    return int(parts[0]), int(parts[-1])


def parse_names(text: str | None, name: str = "data_vars") -> list[str] | None:
    """Return the names in ``NAME,NAME``, or None from None.

    Examples
    --------
    >>> parse_names("tas, pr")
    ['tas', 'pr']
    """
    if not text:
        return None
    names = [word.strip() for word in text.split(",")]
    if not all(names):
        raise OptionError(f"expected {spell(name)} NAME,NAME, received {text!r}; leave it out for all")
    return names


def parse_bounds(text: str) -> Any:
    """Return "auto", None, or a pair from ``LOW:HIGH``, or pairs by variable; an empty side is open.

    Examples
    --------
    >>> parse_bounds("0:"), parse_bounds("tasmin=:tas,prsn=0:pr")
    ((0.0, None), {'tasmin': (None, 'tas'), 'prsn': (0.0, 'pr')})
    """
    if text in ("auto", "none"):
        return None if text == "none" else text
    if "=" in text:
        pairs = (part.partition("=") for part in text.split(","))
        return {name.strip(): _parse_sides(sides, text, allow_names=True) for name, _, sides in pairs}
    return _parse_sides(text, text, allow_names=False)


def _parse_sides(sides: str, text: str, allow_names: bool) -> tuple[Any, Any]:
    """Return two sides of bounds: numbers, names if they are allowed, or None."""
    parts = [part.strip() for part in sides.split(":")]
    form = "auto, none, LOW:HIGH or NAME=LOW:HIGH,..."
    if len(parts) != 2:
        raise OptionError(f"expected {spell('bounds')} as {form}, received {text!r}")
    found: list[Any] = []
    for part in parts:
        try:
            found.append(float(part) if part else None)
        except ValueError:
            if not allow_names:
                raise OptionError(f"expected {spell('bounds')} as {form}, received {text!r}") from None
            found.append(part)
    if not all(math.isfinite(side) for side in found if isinstance(side, float)):
        raise OptionError(
            f"expected finite {spell('bounds')} LOW:HIGH, received {text!r}; leave a side empty where there is none"
        )
    return found[0], found[1]


def parse_rate(text: str) -> Any:
    """Return a number, or "auto".

    Examples
    --------
    >>> parse_rate("-6.5e-3"), parse_rate("auto")
    (-0.0065, 'auto')
    """
    return text if text == AUTO else _parse_number(text, "lapse_rate", f"a number in units per metre or {AUTO}")


def parse_smoothing(text: str) -> float:
    """Return a number of fine cells.

    Examples
    --------
    >>> parse_smoothing("0.5")
    0.5
    """
    return _parse_number(text, "relief_smoothing", "a number of fine cells")


def _parse_number(text: str, name: str, expected: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"expected {spell(name)} as {expected}, received {text!r}") from None


def parse_quantity(text: str) -> Any:
    """Return "intensive" or "extensive", or a mapping of these from ``NAME:QUANTITY,NAME:QUANTITY``.

    Examples
    --------
    >>> parse_quantity("extensive"), parse_quantity("pr:extensive, tas:intensive")
    ('extensive', {'pr': 'extensive', 'tas': 'intensive'})
    """
    if text in QUANTITIES:
        return text
    pairs = [[word.strip() for word in part.rpartition(":")[::2]] for part in text.split(",")]
    if not all(name and quantity in QUANTITIES for name, quantity in pairs):
        raise OptionError(
            f"expected {spell('quantity')} as intensive, extensive or NAME:QUANTITY,NAME:QUANTITY, received {text!r}"
        )
    return {name: quantity for name, quantity in pairs}


def parse_form(text: str) -> Any:
    """Return a form of a climatology, or a mapping of these from ``NAME:FORM,NAME:FORM``.

    Examples
    --------
    >>> parse_form("ratio"), parse_form("pr:ratio, tas:additive")
    ('ratio', {'pr': 'ratio', 'tas': 'additive'})
    """
    if ":" not in text:
        return text
    return {name.strip(): form.strip() for name, _, form in (part.rpartition(":") for part in text.split(","))}


def parse_quantiles(text: str) -> Any:
    """Return a number of quantiles, or a mapping of these from ``NAME:NUMBER,NAME:NUMBER``.

    Examples
    --------
    >>> parse_quantiles("4"), parse_quantiles("tas:4, pr:1")
    (4, {'tas': 4, 'pr': 1})
    """
    try:
        return int(text) if ":" not in text else {name: int(count) for name, count in parse_form(text).items()}
    except ValueError:
        name = spell("climatology_quantiles")
        raise OptionError(f"expected {name} as a whole number or NAME:NUMBER, received {text!r}") from None


def parse_weight(text: str) -> Any:
    """Return "auto", or a number.

    Examples
    --------
    >>> parse_weight("auto"), parse_weight("0.5")
    ('auto', 0.5)
    """
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise OptionError(f"expected {spell('climatology_weight')} as auto or a number, received {text!r}") from None


def parse_transform(text: str) -> Any:
    """Return "auto", "power", None, an exponent, or a mapping of these from ``NAME:VALUE,NAME:VALUE``.

    Examples
    --------
    >>> parse_transform("0.5"), parse_transform("pr:power, prsn:none")
    (0.5, {'pr': 'power', 'prsn': None})
    """
    if ":" in text:
        pairs = [[word.strip() for word in part.rpartition(":")[::2]] for part in text.split(",")]
        return {name: parse_transform(value) for name, value in pairs}
    if text in TRANSFORMS:
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError:
        return text


def parse_target(text: str) -> Any:
    """Return a file or a resolution unchanged, or ``dim:frequency`` as a mapping.

    Examples
    --------
    >>> parse_target("time:D"), parse_target("0.25x0.25")
    ({'time': 'D'}, '0.25x0.25')
    """
    name = spell("target_grid")
    if re.fullmatch(r"[-+\d.,;eExX ]*", text) and not Path(text).is_file():
        if not re.fullmatch(r"[^xX,;]+[xX][^xX,;]+", text):
            raise OptionError(
                f'expected {name} as a resolution of rows x columns such as "0.25x0.25", received {text!r}'
            )
        return text
    if ":" not in text or "/" in text or text.endswith(".nc"):
        return text
    pairs = [[word.strip() for word in part.partition(":")[::2]] for part in text.split(",")]
    if not all(dim and frequency for dim, frequency in pairs):
        raise OptionError(f"expected {name} as a file, a resolution 0.25x0.25 or dim:frequency, received {text!r}")
    return {dim: frequency for dim, frequency in pairs}


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
    attrs = {}
    for pair in pairs or ():
        name, sign, attrs[name.strip()] = pair.partition("=")
        if not name.strip() or not sign:
            raise OptionError(f"expected --attr NAME=VALUE, received {pair!r}")
        if not ATTRIBUTE.fullmatch(name.strip()):
            raise OptionError(f"expected --attr with a name of letters, digits and underscores, received {name!r}")
    return attrs or None


# Syntax for the help, and parsers of values that are not plain.
SYNTAX: dict[str, tuple[str, Callable[[str], Any] | None]] = {
    "factor": ("4, or by dimension lat:4,lon:2,time:30", parse_pairs),
    "target_grid": ("a file, 0.25x0.25, or time:D", parse_target),
    "mask": ("a file", None),
    "method": ("sobolev, auto, conservative, bilinear, bicubic, cascade, rain, or MODEL.safetensors", str),
    "data_vars": ("e.g. tas,pr", parse_names),
    "climatology": ("a file", None),
    "climatology_by": ("auto, none, month, season, dayofyear, hour, month-hour", str),
    "climatology_form": ("auto, additive, ratio, or by variable pr:ratio", parse_form),
    "climatology_weight": ("auto, or a number", parse_weight),
    "climatology_quantiles": ("e.g. 4, or by variable tas:4,pr:4", parse_quantiles),
    "orog": ("a file", None),
    "lapse_rate": ("e.g. -6.5e-3, or auto; needs --orog", parse_rate),
    "relief_smoothing": ("0 for none; needs --lapse-rate", parse_smoothing),
    "footprint": ("gaussian:25km", None),
    "conserve": ("cell, total or none", lambda text: None if text == "none" else text),
    "bounds": ("auto, none, LOW:HIGH (either may be empty), or by variable tasmin=:tas,prsn=0:pr", parse_bounds),
    "orderings": ("auto", None),
    "quantity": ("intensive, extensive, or by variable pr:extensive", parse_quantity),
    "transform": ("auto, power, none, an exponent, or by variable pr:power", parse_transform),
    "device": ("auto, cpu, or an accelerator", None),
}
# The arguments of a request that are options of ``apply``.
REQUEST = (
    "factor", "target_grid", "mask", "na_thres", "method", "members", "seed", "smoothing", "data_vars", "orog",
    "lapse_rate", "relief_smoothing", "climatology", "climatology_by", "climatology_form", "climatology_weight",
    "climatology_quantiles", "footprint", "conserve", "bounds", "orderings", "transform", "quantity", "tolerance",
    "device",
)  # fmt: skip


def options_of(
    names: tuple[str, ...] = REQUEST, declarations: Mapping[str, Argument] = ARGUMENTS, **syntax: str
) -> dict[str, tuple[Any, Any]]:
    """Return options for declared arguments: their annotations, with the help of the declaration, and their defaults.

    ``syntax`` replaces that of values in the help.
    """
    options = {}
    for name in names:
        words, parse = SYNTAX.get(name, ("", None)) if declarations is ARGUMENTS else ("", None)
        words, entry = syntax.get(name, words), declarations[name]
        words = entry.help.removesuffix(".") + (f": {words}." if words else ".")
        kind = entry.plain if parse is None else str if entry.default is not None else str | None
        options[name] = (Annotated[kind, typer.Option(FLAGS[name], help=words)], entry.default)
    return options


def parse_options(values: dict[str, Any], names: tuple[str, ...] = REQUEST) -> dict[str, Any]:
    """Return the arguments from the values of their options, removed from ``values``; messages then name options."""
    spelling.set(FLAGS)
    arguments = {}
    for name in names:
        text, parse = values.pop(name), SYNTAX.get(name, ("", None))[1]
        arguments[name] = text if text is None or parse is None else parse(text)
        require_legal(name, arguments[name])
    return arguments


def with_options(**options: tuple[Any, Any]) -> Callable[[Any], Any]:
    """Return a decorator that puts options in place of the ``**values`` of a command, by annotation and default."""

    def decorate(function: Any) -> Any:
        parameters = {
            name: (item.annotation, item.default)
            for name, item in inspect.signature(function, eval_str=True).parameters.items()
            if item.kind is not item.VAR_KEYWORD
        }
        arguments = {name: item for name, item in parameters.items() if item[1] is inspect.Parameter.empty}
        function.__signature__ = inspect.Signature([
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in {**arguments, **options, **parameters}.items()
        ])  # fmt: skip
        return function

    return decorate
