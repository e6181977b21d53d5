"""Settings of the bias adjustment of a variable, with defaults by its quantity.

The methods are those of xsdba: quantile delta mapping (Cannon et al. 2015), detrended and empirical quantile mapping,
and scaling of the mean. Bounds are applied after the adjustment. Frequency adaptation follows Themessl et al. (2012).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import xarray as xr
from pydantic import Field

from downscale.cf.quantities import infer_standard_name, units_of
from downscale.cf.units import convert, fits
from downscale.errors import OptionError, listing
from downscale.io.config import Block, validate_block

Method = Literal["qdm", "dqm", "eqm", "scaling", "none"]
Kind = Literal["additive", "multiplicative"]
Grouping = Literal["dayofyear", "month", "season", "time"]
METHODS: tuple[Method, ...] = ("qdm", "dqm", "eqm", "scaling", "none")
MAPPINGS: tuple[Method, ...] = ("qdm", "dqm", "eqm")
# Defaults that do not depend on the quantity; a window is one of days of the year.
WINDOW, QUANTILES, DEGREE = 31, 50, 1
AMOUNT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*")
# Mass of water per area, and its depth: 1 kg m-2 is 1 mm.
WATER, DEPTH, DEPTH_OF_WATER = "kg m-2", "m", 1e-3


class VariableSettings(Block):
    """How a variable is adjusted; None means the default of its quantity.

    Attributes
    ----------
    method : {"qdm", "dqm", "eqm", "scaling", "none"}
        Quantile delta mapping, detrended or empirical quantile mapping, scaling of the mean, or no adjustment.
    kind : {"additive", "multiplicative"}
        Whether quantiles are shifted or scaled.
    group : {"dayofyear", "month", "season", "time"}
        Part of the year that has its own adjustment; "time" takes all steps together.
    window : int
        Number of days around each day of the year whose values form its distribution; odd.
    quantiles : int
        Number of quantiles.
    interp : {"nearest", "linear"}
        Interpolation of adjustments between quantiles.
    wet_threshold : str
        Amount with units, such as "0.1 mm/d". If the model has more values at or below it than the observations, some
        of them are raised (frequency adaptation); "none" for no adaptation.
    lower, upper : float
        Range of physical values in the units of the observations; values outside are set to its ends.
    transform : {"logit", "none"}
        "logit" adjusts a variable with both bounds as the logarithm of its odds.
    detrend : int
        Degree of the polynomial trend that "dqm" removes before and restores after the adjustment.
    """

    method: Method | None = None
    kind: Kind | None = None
    group: Grouping | None = None
    window: int | None = Field(default=None, ge=1, le=365)
    quantiles: int | None = Field(default=None, ge=2, le=1000)
    interp: Literal["nearest", "linear"] | None = None
    wet_threshold: str | None = None
    lower: float | None = None
    upper: float | None = None
    transform: Literal["logit", "none"] | None = None
    detrend: int | None = Field(default=None, ge=0, le=4)

    def __str__(self) -> str:
        """Describe the adjustment in words, for attributes and reports."""
        if self.method == "none":
            return "not adjusted"
        groups = {"dayofyear": f"{self.window} days around each day of the year", "time": "all days"}
        words = [f"{self.kind} {self.method}", groups.get(str(self.group), f"by {self.group}")]
        words += [f"{self.quantiles} quantiles"] if self.method in MAPPINGS else []
        words += [f"trend of degree {self.detrend}"] if self.method == "dqm" else []
        words += [f"frequency of values above {self.wet_threshold} adapted"] if self.wet_threshold else []
        words += ["logarithm of odds"] if self.transform else []
        bounds = [f"{word} {value:g}" for word, value in (("at least", self.lower), ("at most", self.upper))
                  if value is not None]  # fmt: skip
        return ", ".join([*words, *bounds])


def settings_for(
    name: str, field: xr.DataArray, override: VariableSettings | Mapping[str, Any] | str | None = None
) -> VariableSettings:
    """Return the complete settings of a variable: the ``override`` where given, else the defaults of its quantity.

    Parameters
    ----------
    name : str
        Name of the variable, for messages and for the search among customary names.
    field : DataArray
        Observations of the variable; bounds are in its units.
    override : VariableSettings, mapping or str, optional
        Settings that replace defaults, or a method.

    Raises
    ------
    OptionError
        If the quantity is unknown and ``method`` and ``kind`` are not given, or settings contradict each other.

    Examples
    --------
    >>> field = xr.DataArray(0.0, attrs={"standard_name": "relative_humidity", "units": "1"})
    >>> settings = settings_for("hurs", field)
    >>> settings.method, settings.kind, settings.lower, settings.upper
    ('qdm', 'additive', 0.0, 1.0)
    """
    given = _given(name, override)
    entry = _entry(name, field)
    if entry is None and given.get("method") != "none" and not {"method", "kind"} <= set(given):
        raise OptionError(
            f"{name}: expected a known quantity to adjust, received standard_name "
            f"{field.attrs.get('standard_name')!r} and units {units_of(field)!r}; give method (one of "
            f"{listing(METHODS)}) and kind (additive or multiplicative)"
        )
    chosen: dict[str, Any] = {"method": "qdm", "group": "dayofyear", **_defaults(entry or {}, field), **given}
    chosen["quantiles"] = chosen.get("quantiles", QUANTILES)
    chosen["window"] = chosen.get("window", WINDOW) if chosen["group"] == "dayofyear" else None
    chosen["interp"] = chosen.get("interp", "nearest" if chosen["group"] == "dayofyear" else "linear")
    chosen["detrend"] = chosen.get("detrend", DEGREE) if chosen["method"] == "dqm" else None
    chosen["wet_threshold"] = _optional(chosen.get("wet_threshold")) if chosen["method"] in MAPPINGS else None
    chosen["transform"] = _optional(chosen.get("transform"))
    settings = VariableSettings(**chosen)
    _require_sense(name, settings, given)
    if settings.wet_threshold is not None:
        threshold_in(settings.wet_threshold, units_of(field), name)
    return settings


def _optional(value: Any) -> Any:
    return None if value == "none" else value


def _given(name: str, override: VariableSettings | Mapping[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(override, str):
        override = {"method": override}
    if isinstance(override, Mapping):
        override = validate_block(VariableSettings, dict(override), name)
    return {} if override is None else override.model_dump(exclude_none=True)


def _require_sense(name: str, settings: VariableSettings, given: Mapping[str, Any]) -> None:
    """Raise an OptionError if settings contradict each other."""
    if settings.window is None and given.get("window") is not None:
        raise OptionError(f"{name}: window needs group='dayofyear', received group={settings.group!r}")
    if settings.window is not None and settings.window % 2 == 0:
        raise OptionError(f"{name}: expected an odd window of days, received {settings.window}; add one")
    if given.get("detrend") is not None and settings.method != "dqm":
        raise OptionError(f"{name}: detrend needs method='dqm', received method={settings.method!r}")
    lower, upper = settings.lower, settings.upper
    if lower is not None and upper is not None and lower >= upper:
        raise OptionError(f"{name}: expected lower below upper, received {lower:g} and {upper:g}")
    if settings.transform is not None and (lower is None or upper is None or settings.kind != "additive"):
        raise OptionError(f"{name}: transform={settings.transform!r} needs lower, upper and kind='additive'")
    if settings.wet_threshold is not None and settings.kind != "multiplicative":
        raise OptionError(f"{name}: wet_threshold needs kind='multiplicative', received kind={settings.kind!r}")


@cache
def _table() -> list[dict[str, Any]]:
    text = files(__package__).joinpath("settings.toml").read_text("utf-8")
    return list(tomllib.loads(text)["quantity"])


def _entry(name: str, field: xr.DataArray) -> dict[str, Any] | None:
    """Return the defaults of a quantity: by standard name, by customary name, or by an inferred standard name."""
    given = str(field.attrs.get("standard_name", "")).lower()
    guess = given or str(infer_standard_name(field.rename(name))[0] or "")
    for entry in _table():
        if given and any(re.fullmatch(pattern, given) for pattern in entry["standard_names"]):
            return entry
    for entry in _table():
        if not given and name.lower() in entry["names"].split():
            return entry
    for entry in _table():
        if guess and any(re.fullmatch(pattern, guess) for pattern in entry["standard_names"]):
            return entry
    return None


def _defaults(entry: Mapping[str, Any], field: xr.DataArray) -> dict[str, Any]:
    """Return the defaults of an entry of the table, with bounds in the units of a field."""
    defaults = {key: entry[key] for key in ("kind", "wet_threshold") if key in entry}
    units = units_of(field) or "1"
    for key in ("lower", "upper"):
        value = entry.get(key)
        # Zero of a quantity without an offset is zero in any units.
        converted = value if not value or "units" not in entry else convert(value, entry["units"], units)
        if converted is not None:
            defaults[key] = converted
    return defaults


def threshold_in(text: str, units: str | None, name: str = "wet_threshold") -> float:
    """Return an amount with units as a number in others; depths of water and masses per area are equivalent.

    An amount per time is the amount of a day in units of an amount, since values are daily.

    Raises
    ------
    OptionError
        If the text is not an amount with units that convert.

    Examples
    --------
    >>> threshold_in("1 mm/d", "kg m-2 s-1") * 86400, threshold_in("0.1 mm/d", "mm"), threshold_in("2", "m s-1")
    (1.0, 0.1, 2.0)
    """
    match = AMOUNT.fullmatch(text)
    own, wanted = (match and match[2]) or units or "1", units or "1"
    if match is not None and float(match[1]) >= 0:
        for factor, source, target in (
            (1.0, own, wanted),
            (1.0, f"({own}) day", wanted) if fits(own, f"{DEPTH} s-1") else (1.0, "", ""),
            (1 / DEPTH_OF_WATER, own, f"({wanted}) m3 kg-1"),
            (1 / DEPTH_OF_WATER, f"({own}) day", f"({wanted}) m3 kg-1"),
            (DEPTH_OF_WATER, f"({own}) m3 kg-1", wanted),
        ):
            value = convert(float(match[1]), source, target) if source else None
            if value is not None:
                return value * factor
    raise OptionError(f'{name}: expected an amount in units such as "0.1 mm/d" that fit {units!r}, received {text!r}')
