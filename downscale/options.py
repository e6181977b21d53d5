"""Package-wide options, their defaults and their validation.

Used like xarray's: ``downscale.set_options(check="warn")`` permanently, or as a context manager.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from numbers import Real
from typing import Any

from downscale.errors import OptionError, listing

CHECKS = ("raise", "warn", "log", "skip")
ENGINES = ("auto", "numba", "torch", "dense")


def one_of(*legal: str | None) -> Callable[[Any], str | None]:
    """Return a check of values: None for a legal one, else the legal ones in words."""
    return lambda value: None if value in legal else f"one of {listing(legal)}"


def _memory_rule(value: Any) -> str | None:
    with suppress(ValueError, TypeError, AttributeError):
        if value is None or (not isinstance(value, bool) and bytes_of(value) > 0):
            return None
    return 'a size such as "2GB", a number of bytes, or None for no limit'


def bytes_of(size: int | float | str) -> int:
    """Return a size as a number of bytes.

    Examples
    --------
    >>> bytes_of("2GB"), bytes_of("512 MiB")
    (2000000000, 536870912)
    """
    from dask.utils import parse_bytes

    return int(parse_bytes(size))


def _rule(is_legal: Callable[[Any], bool], expected: str) -> Callable[[Any], str | None]:
    return lambda value: None if is_legal(value) else expected


def _is_tolerance(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool) and float(value) > 0)


VALIDATORS: dict[str, Callable[[Any], str | None]] = {
    "check": one_of(*CHECKS),
    "device": _rule(lambda v: isinstance(v, str) and v != "", "'auto', 'cpu' or the name of an accelerator"),
    "engine": one_of(*ENGINES),
    "progress": one_of("auto", "on", "off"),
    "keep_attrs": _rule(lambda value: isinstance(value, bool), "True or False"),
    "max_memory": _memory_rule,
    "tolerance": _rule(_is_tolerance, "a positive number, or None for the default of the data type"),
}

_OPTIONS: dict[str, Any] = dict.fromkeys(VALIDATORS, "auto") | {
    "check": "raise", "keep_attrs": True, "max_memory": None, "tolerance": None
}  # fmt: skip


def get_options() -> dict[str, Any]:
    """Return a copy of the current options.

    Examples
    --------
    >>> get_options()["check"]
    'raise'
    """
    return dict(_OPTIONS)


def option(name: str) -> Any:
    """Return the value of one option."""
    return _OPTIONS[name]


class set_options:
    """Set options permanently, or within a ``with`` block.

    Parameters
    ----------
    check : {"raise", "warn", "log", "skip"}
        Action if conservation fails in a computed block.
    device : str
        "auto" uses an accelerator if there is one, else the CPU.
    engine : {"auto", "numba", "torch", "dense"}
        "numba" compiles loops for linear methods on the CPU and leaves the rest to PyTorch, as does "auto"; "dense"
        applies linear methods as matrices, slowly, for comparisons. All agree to rounding.
    progress : {"auto", "on", "off"}
        Progress bars; "auto" shows them only on a terminal.
    keep_attrs : bool
        Keep the attributes of variables.
    max_memory : int, str or None
        Memory limit of this process, such as "2GB"; blocks and workers are sized for it.
    tolerance : float or None
        Largest relative error of a coarse cell; None means 1e-6 for float32 and 1e-12 for float64.

    Raises
    ------
    OptionError
        On an unknown name or an illegal value; the message lists the choices.

    Examples
    --------
    >>> with set_options(check="warn"):
    ...     get_options()["check"]
    'warn'
    """

    def __init__(self, **options: Any) -> None:
        for name, value in options.items():
            if name not in VALIDATORS:
                raise OptionError(f"expected an option among {listing(VALIDATORS)}, received {name!r}")
            expected = VALIDATORS[name](value)
            if expected is not None:
                raise OptionError(f"option {name!r}: expected {expected}, received {value!r}")
        self._previous = {name: _OPTIONS[name] for name in options}
        _OPTIONS.update(options)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        _OPTIONS.update(self._previous)
