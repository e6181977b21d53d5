"""The request: every argument of :func:`downscale.downscale`, declared once.

The declarations give Python its signature and documentation, recipes the section ``downscale``, and the command line
its options; each has a type for plain values, a description, and a check of its value.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from downscale.errors import OptionError, listing, spell
from downscale.options import CHECKS, VALIDATORS, one_of, option

if TYPE_CHECKING:
    from downscale.losses.penalty import TerrainPenalty

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
QUANTITIES = ("intensive", "extensive")
FORMS = ("auto", "additive", "ratio")
CALENDAR_LABELS = ("none", "season", "month", "dayofyear", "hour", "season-hour", "month-hour", "dayofyear-hour")
TRANSFORMS = ("auto", "power", "none", None)
MOST_MEMBERS = 2**31
MOST_QUANTILES = 20
AUTO = "auto"
# Rates in recipes and on the command line.
RATE = float | Literal["auto"] | dict[str, float | Literal["auto"] | None] | None
# Fine cells: more would need neighbours from most of a small domain.
LARGEST_SMOOTHING = 50
WIDTH = 120


@dataclass(frozen=True)
class Argument:
    """Declaration of an argument."""

    default: Any
    kind: str  # type in the documentation of Python
    plain: Any  # type in recipes and on the command line
    help: str  # one sentence, the help text of the command line
    details: str = ""  # further documentation
    expects: Callable[[Any], str | None] = lambda value: None  # the legal values in words, or None for a legal value
    in_recipe: bool = True  # whether it belongs to the section ``downscale`` of a recipe


def argument(default: Any, *declaration: Any, **options: Any) -> Any:
    """Return the field of an argument with this default; the declaration is that of :class:`Argument`."""
    return field(default=default, metadata={"argument": Argument(default, *declaration, **options)})


def _option_or_none(name: str, words: str = "") -> Callable[[Any], str | None]:
    def expects(value: Any) -> str | None:
        expected = None if value is None else VALIDATORS[name](value)
        return expected and (words or expected)

    return expects


def _number(low: float, high: float, optional: bool = False) -> Callable[[Any], str | None]:
    def expects(value: Any) -> str | None:
        is_legal = isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high
        return None if is_legal or (optional and value is None) else f"a number from {low:g} to {high:g}"

    return expects


def _whole_number(low: int, high: int) -> Callable[[Any], str | None]:
    def expects(value: Any) -> str | None:
        is_legal = isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) < high
        return None if is_legal else f"a whole number from {low}"

    return expects


def _transform(value: Any) -> str | None:
    values = list(value.values()) if isinstance(value, Mapping) else [value]
    is_legal = all(0 < v <= 1 if _is_real(v) else v is None or (isinstance(v, str) and v in TRANSFORMS) for v in values)
    return None if is_legal else f"{', '.join(map(repr, TRANSFORMS[:-1]))}, None, or an exponent p with 0 < p <= 1"


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _member_count(value: Any) -> str | None:
    return None if value is None else _whole_number(1, MOST_MEMBERS)(value)


def values_of(value: Any) -> list[Any]:
    """Return the values of a mapping by name, or the only one."""
    return list(value.values()) if isinstance(value, Mapping) else [value]


def value_for(value: Any, name: str) -> Any:
    """Return the value of one variable: from a mapping by name, or the one of all."""
    return value.get(name) if isinstance(value, Mapping) else value


def is_auto(value: Any) -> bool:
    """Return whether a lapse rate is left to self-validation."""
    return isinstance(value, str) and value == AUTO


def _rate(value: Any) -> str | None:
    legal = all(not isinstance(one, str) or is_auto(one) for one in values_of(value))
    return None if legal else f'a number in units per metre, a DataArray, "{AUTO}" or None'


def _smoothing(value: Any) -> str | None:
    expected = _number(0, LARGEST_SMOOTHING, optional=True)
    return next(filter(None, map(expected, values_of(value))), None)


def _quantity(value: Any) -> str | None:
    legal = (*QUANTITIES, None)
    return None if all(item in legal for item in values_of(value)) else f"one of {listing(legal)}"


def _form(value: Any) -> str | None:
    values = list(value.values()) if isinstance(value, Mapping) else [value]
    return None if all(item in FORMS for item in values) else f"one of {listing(FORMS)}"


def _quantiles(value: Any) -> str | None:
    return next(filter(None, map(_whole_number(1, MOST_QUANTILES + 1), values_of(value))), None)


def _weight(value: Any) -> str | None:
    return None if value == "auto" or _number(0, 1)(value) is None else "'auto' or a number from 0 to 1"


@dataclass(frozen=True)
class Request:
    """A validated request: the arguments of :func:`downscale.downscale`."""

    factor: Any = argument(
        None, "int or mapping of dimension to int", Any, "Refinement factor.",
        """For example ``4`` or ``{"lat": 4, "lon": 2}``. Time and layers with bounds can be refined too
        (``{"time": 30}``); they are refined first.""",
    )  # fmt: skip
    method: Any = argument(
        "sobolev", "str, path, Learned or ``Upscaler``", str, "Method, or the model that downscales.",
        """"sobolev" (lowest error of all training-free methods tested), "conservative" (piecewise constant),
        "bilinear", "bicubic"; "cascade" ("sobolev" with stochastic detail, see ``members``); "auto" ("sobolev" with
        the settings that self-validation supports, from a sample of maps that is read at once);
        a bundled model ("rain", "temperature"), the path of a checkpoint (``model.safetensors``) or a model in memory,
        which set the factor; or any object that implements the ``Upscaler`` protocol.""",
    )  # fmt: skip
    target_grid: Any = argument(
        None, "Dataset, DataArray, file or str, optional", str | dict[str, str] | None,
        "Target grid instead of a factor.",
        """Any rectilinear grid of the same kind of coordinates, finer or coarser, or a resolution
        such as "0.25x0.25" (rows x columns). If it does not nest in the coarse cells, these are cut at its edges. The
        pieces are refined with cell conservation and averaged over target cells. Global conservation is then exact, and
        cell conservation is exact for every region that is a union of coarse and of target cells. If the border of the
        target crosses a coarse cell, the part inside gets the value of the cell. Target cells outside the domain are
        NaN; target cells partly inside hold the mean of that part. With ``method="conservative"`` this is first-order
        conservative regridding in both directions. A mapping of another dimension to a frequency or an axis, such as
        ``{"time": "D"}``, regrids along it: monthly means become daily values with the same monthly means, and layers
        become other layers.""",
    )  # fmt: skip
    mask: Any = argument(
        None, "Dataset, DataArray or file, optional", str | None, "Mask or fraction of valid fine cells.",
        """True or 1, or a fraction (0-1 or 0-100 %) above one half, such as ``sftlf``. Other fine cells
        become NaN, and cell means are conserved over the valid area: coasts are neither diluted nor blanked.""",
    )  # fmt: skip
    na_thres: float = argument(
        1.0, "float", float, "Maximum missing fraction of a target cell that still gets a value, 0 to 1.",
        """With 1 (default) any valid part suffices, with 0 the whole cell must be valid. Cells outside the coarse
        domain are missing.""", _number(0, 1),
    )  # fmt: skip
    orog: Any = argument(
        None, "DataArray, Dataset or file, optional", str | None, "Orography in metres, on a finer grid.",
        "Any finer rectilinear grid that covers the domain.", in_recipe=False,
    )  # fmt: skip
    sftlf: Any = argument(
        None, "DataArray, Dataset or file, optional", str | None, "Land fraction, for models that use it.",
        "It masks nothing (see ``mask``).",
    )  # fmt: skip
    lapse_rate: Any = argument(
        None, 'float, DataArray, "auto" or mapping of name to these, optional', RATE,
        'Change of the field with height, in units per metre, or "auto".',
        """For example -6.5e-3 for temperature in K. Adds the orography that the coarse grid does not resolve,
        ``Gamma (S z - U A S z)``, S the smoothing. "auto" takes the rate that self-validation supports with confidence,
        or none; it reads a sample of maps at once. None (default) adds nothing.""", _rate, in_recipe=False,
    )  # fmt: skip
    relief_smoothing: Any = argument(
        None, "float or mapping of name to float, optional", float | dict[str, float | None] | None,
        "Smoothing of the orography of the lapse-rate term, in fine cells, by default self-validated.",
        """Standard deviation of Gaussian weights of neighbours. Models do not resolve the orography of single cells, so
        that the term of the full orography is too rough. 0 leaves the orography as it is. By default the most, up to 1,
        that self-validation supports, from a sample of maps that is read at once.""", _smoothing, in_recipe=False,
    )  # fmt: skip
    terrain_penalty: TerrainPenalty | None = argument(
        None, "TerrainPenalty, optional", Any,
        "Reduce gradients that the orography does not explain, with cell conservation.", in_recipe=False,
    )  # fmt: skip
    conserve: str | None = argument(
        "cell", '{"cell", "total", None}', str | None, "Conservation that the result satisfies.",
        """"cell": conserve the mean of every coarse cell. "total": conserve only the area integral of each map. None
        leaves the output of the method unchanged. Applies to every method.""", one_of("cell", "total", None),
    )  # fmt: skip
    bounds: Any = argument(
        "auto", '"auto", (lower, upper), mapping of name to these, or None', Any, "Limits of fine values.",
        """"auto" takes them from the standard name (precipitation >= 0, fractions, humidity). Either limit may be a
        field: the name of another variable of the Dataset, a DataArray or a file on the fine grid, as in
        ``{"tasmin": (None, "tas"), "tasmax": ("tas", None), "prsn": (0, "pr")}``. Variables are then downscaled in this
        order, member by member, each with its own cell means. Where a coarse value is out of order itself its mean has
        priority: its fine values are out of order by the same amount, and a warning has their number and place.""",
    )  # fmt: skip
    orderings: str | None = argument(
        None, '"auto" or None', str | None, "Order of well-known variables, such as tasmin <= tas and prsn <= pr.",
        """"auto" bounds variables by others of the Dataset, by standard names and cell methods or customary names,
        where ``bounds`` has no own limit: tasmin <= tas <= tasmax, prsn <= pr, dew point <= temperature, and
        others.""",
        one_of("auto", None),
    )  # fmt: skip
    transform: Any = argument(
        "auto", '"auto", "power", float, None, or mapping of name to these', float | str | dict[str, Any] | None,
        "Transform of rain that the kernel acts on.",
        """"power": "sobolev" interpolates x^p and raises the result to the power 1/p, before cell means and bounds are
        imposed; p is 1/2 at 2x, 1/3 at 4x and 1/4 at 8x, or the number that you pass (0 < p <= 1). "auto" applies it to
        precipitation amounts and rates, by standard name or customary name, on coarse grids of more than
        two stencils (``2 * taps`` cells) along both axes. None applies none.""", _transform,
    )  # fmt: skip
    data_vars: Any = argument(
        None, "str or list of str, optional", list[str] | None, "Variables, by default all.",
        "All that have both horizontal dimensions.", in_recipe=False,
    )  # fmt: skip
    quantity: str | Mapping[str, str] | None = argument(
        None, '{"intensive", "extensive"} or mapping of name to these, optional', str | dict[str, str] | None,
        "Means (intensive) or sums (extensive) over cells or periods.",
        """Over periods if only time is regridded. By default read from ``cell_methods``
        ("area: sum", "time: sum"), units and names: counts and kg are sums over cells, rainfall amounts are sums over
        periods.""", _quantity,
    )  # fmt: skip
    device: str | None = argument(
        None, "str, optional", str | None, "Device.", '"auto" (default), "cpu", or the name of an accelerator.',
        _option_or_none("device"),
    )  # fmt: skip
    output_chunks: Any = argument(None, "mapping, optional", Any, "Dask chunks of the result.", in_recipe=False)
    check: str | None = argument(
        None, '{"raise", "warn", "log", "skip"}, optional', str | None,
        "Action if cell conservation fails in a block, when it is computed.", "", one_of(*CHECKS, None),
        in_recipe=False,
    )  # fmt: skip
    tolerance: float | None = argument(
        None, "float, optional", float | None, "Largest relative error of a coarse cell that passes.",
        "1e-6 for float32 and 1e-12 for float64 by default.", _option_or_none("tolerance", "a positive number"),
        in_recipe=False,
    )  # fmt: skip
    keep_attrs: bool | None = argument(
        None, "bool, optional", bool | None, "Keep the attributes of variables (default).", "",
        _option_or_none("keep_attrs"), in_recipe=False,
    )  # fmt: skip
    climatology: Any = argument(
        None, "Dataset, DataArray or file, optional", str | None, "Fine observations, a record or a climatology.",
        """On any rectilinear grid at least as fine as the target. The climatological detail below coarse cells is
        added, or multiplied, before cell means are conserved. A record with times gives that of each label
        (``climatology_by``); a climatology has a dimension ``month``, ``season``, ``dayofyear`` or ``hour``, CF
        climatological times, or no time. Where observations are missing, the method alone applies. A learned model
        takes one map without times if it was trained with one. Not for ``footprint``.""",
    )  # fmt: skip
    climatology_by: str = argument(
        "auto", "str", str, "Calendar labels of the climatology of a record.",
        """"none", "month", "season", "dayofyear" (in steps of five days, averaged over 35 days), "hour", or one of
        these with "-hour", such as "month-hour". "auto" is "month", or "month-hour" if the record has all hours of the
        coarse times.""", one_of("auto", *CALENDAR_LABELS),
    )  # fmt: skip
    climatology_form: Any = argument(
        "auto", '{"auto", "additive", "ratio"} or mapping of name to these', str | dict[str, str],
        "Detail to add, or in proportion to the smooth field.",
        """"auto" is "ratio" for quantities that are not negative and have no upper bound by their standard name, such
        as rain and wind speed, else "additive".""", _form,
    )  # fmt: skip
    climatology_weight: Any = argument(
        "auto", '"auto" or float', str | float, "Weight of the detail, 0 to 1.",
        """"auto" shrinks it by its sampling error, for each label and coarse cell: the weight with the least expected
        error, from independent parts of the record (its years, or runs of five days if there are fewer than five).
        Records with too few parts get 0, and climatologies without years get 1.""", _weight,
    )  # fmt: skip
    climatology_quantiles: Any = argument(
        1, "int or mapping of name to int", int | dict[str, int],
        "Number of details of each label, by the rank of the coarse value in the observations.",
        """With more than one, such as 4, the detail is that of cold or warm, dry or wet times of the label, linear
        between them. Ranks are those within the observations: adjust the bias of a model first. Needs a record. A
        variable that a mapping leaves out has one.""",
        _quantiles,
    )  # fmt: skip
    footprint: Any = argument(
        None, "str, Psf, ArrayPsf or array, optional", str | None, "Footprint that coarse values are averages with.",
        """The point-spread function of an instrument, such as "gaussian:25km", if coarse values are averages weighted
        by it instead of plain cell means: coarse = A H fine. The fine field is then that of least Sobolev seminorm with
        these averages, deconvolved and downscaled in one solve. Maps are not split into blocks. For "sobolev",
        ``conserve="cell"`` and nested targets.""",
    )  # fmt: skip
    taps: int = argument(7, "int", int, 'Stencil width of "sobolev" in cells.')
    order: float | None = argument(
        None, "float, optional", float | None, 'Sobolev order of "sobolev".',
        "By default 1.25 over maps, 1 along time and layers.",
    )  # fmt: skip
    members: int | None = argument(
        None, "int, optional", int | None, "Number of ensemble members to generate.",
        """Along the new dimension "realization"; by default one, without that dimension. For "cascade" and for models
        trained as ensembles.""", _member_count,
    )  # fmt: skip
    seed: int = argument(
        0, "int", int, "Random seed of the ensemble.",
        "The same seed gives the same members, for any chunks and number of workers.", _whole_number(0, 2**63),
    )  # fmt: skip
    smoothing: float | None = argument(
        None, "float, optional", float | None, "For cascade: smoothing of the fine fields, 0 (radar) to 3.",
        """By the instrument or model of the fine field at the size of its own cells, which cannot
        be estimated from coarse fields. An exponent that steepens the spectrum below coarse cells: 0 for single radars
        and fields as rough as the power law, 2 to 3 for smoothed composites; 0.9 by default.""",
        _number(0, 10, optional=True),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ARGUMENTS:
            require_legal(name, getattr(self, name))
        self._require_compatible()

    def _require_compatible(self) -> None:
        """Refuse arguments that exclude or need others."""
        from downscale.losses.penalty import TerrainPenalty
        from downscale.methods.registry import CASCADE, find_method, name_of

        name, method, terrain = name_of(self.method), find_method(self.method), self.terrain_penalty
        if self.members is not None and method.members is False:
            raise OptionError(
                f"expected a method that generates members, received {name!r} with {spell('members', self.members)}; "
                "use 'cascade' or an ensemble model"
            )
        if self.smoothing is not None and not method.smoothing:
            raise _conflict(spell("method", CASCADE), "smoothing", repr(name))
        if self.conserve != "cell" and self.bounds not in ("auto", None):
            raise _conflict(spell("conserve", "cell"), "bounds", spell("conserve", self.conserve))
        self._require_transform(name, method)
        if self.orog is None and self.lapse_rate is not None:
            orog = spell("orog")
            raise OptionError(
                f"expected {orog} with {spell('lapse_rate')}, received none; pass the fine orography as {orog}"
            )
        if self.relief_smoothing is not None and self.lapse_rate is None:
            raise OptionError(
                f"expected {spell('lapse_rate')} with {spell('relief_smoothing')}, received none; pass a rate in "
                f'units per metre, or "{AUTO}"'
            )
        if any(map(is_auto, values_of(self.lapse_rate))) and method.kind not in ("kernel", CASCADE):
            raise OptionError(
                f'expected a kernel with {spell("lapse_rate")} "{AUTO}", received {name!r}; pass a rate as a number, '
                "or a method such as 'sobolev'"
            )
        if terrain is not None and not isinstance(terrain, TerrainPenalty):
            raise OptionError(f"expected terrain_penalty to be a TerrainPenalty, received {type(terrain).__name__}")
        if terrain is not None and self.conserve != "cell":
            raise _conflict(spell("conserve", "cell"), "terrain_penalty", repr(self.conserve))
        for param in ("climatology_by", "climatology_form", "climatology_weight", "climatology_quantiles"):
            if getattr(self, param) in ("auto", 1):
                continue
            if self.climatology is None:
                raise OptionError(
                    f"expected {spell('climatology')} with {spell(param)}, received none; pass fine observations"
                )
            if method.kind == "learned":
                raise _conflict("a method without training", param, repr(name))
        if self.footprint is None:
            return
        if not method.footprint:
            raise _conflict(spell("method", "sobolev"), "footprint", repr(name))
        for param, is_set in (("lapse_rate", self.lapse_rate is not None), ("conserve", self.conserve != "cell"),
                               ("terrain_penalty", terrain is not None),
                               ("climatology", self.climatology is not None)):  # fmt: skip
            if is_set:
                expectation = f"expected no {spell(param)} with {spell('footprint')}, whose averages it would change"
                raise OptionError(f"{expectation}, received one; drop one")

    def _require_transform(self, name: str, method: Any) -> None:
        """Refuse a requested transform with other arguments that exclude it."""
        transforms = self.transform.values() if isinstance(self.transform, Mapping) else [self.transform]
        if all(value in ("auto", "none", None, 1) for value in transforms):
            return
        if not method.transform:
            raise _conflict(spell("method", "sobolev"), "transform", repr(name))
        if self.conserve != "cell":
            raise _conflict(spell("conserve", "cell"), "transform", repr(self.conserve))
        if self.footprint is not None:
            raise OptionError(f"expected no {spell('transform')} with {spell('footprint')}, received both; drop one")

    def transform_for(self, name: str) -> Any:
        """Return the requested transform of one variable: "auto", "power", an exponent, or None."""
        value = self.transform.get(name, "auto") if isinstance(self.transform, Mapping) else self.transform
        return None if value in ("none", 1) else value

    @property
    def map_order(self) -> float:
        """Sobolev order over maps."""
        from downscale.kernels.sobolev import MAP_ORDER

        return MAP_ORDER if self.order is None else self.order

    @property
    def line_order(self) -> float:
        """Sobolev order along time and layers."""
        from downscale.kernels.sobolev import LINE_ORDER

        return LINE_ORDER if self.order is None else self.order

    def quantiles_for(self, name: str) -> int:
        """Return the number of details of each label of one variable."""
        return int(value_for(self.climatology_quantiles, name) or 1)

    def quantity_for(self, name: str) -> str | None:
        """Return the requested quantity of one variable: sums, means, or None."""
        return value_for(self.quantity, name)

    def setting(self, name: str) -> Any:
        """Return an option of this request, or the package-wide one if it is None."""
        value = getattr(self, name)
        return option(name) if value is None else value


ARGUMENTS: dict[str, Argument] = {item.name: item.metadata["argument"] for item in fields(Request)}

# The arguments of :func:`downscale.deconvolve` that are not those of a request.
DECONVOLUTION = {
    "psf": Argument(
        inspect.Parameter.empty, "str, Psf, ArrayPsf or array", str,
        "Point-spread function, full width at half maximum: gaussian:25km, box:10km, airy:12km, gaussian:40x25km@30.",
        """The last one is 40 km across along x, its first axis 30 degrees clockwise from north. Or weights of cells
        that add up to one. Lengths are in km along great circles on latitude and longitude, in km of the plane on a
        projection.""",
    ),
    "method": Argument(
        "richardson_lucy", '{"richardson_lucy", "wiener", "tikhonov"}', str,
        "Method: richardson_lucy (positive fields), wiener or tikhonov (any sign).",
        "The weights of the latter two are chosen by generalised cross-validation.",
    ),
    "noise": Argument(
        None, "float, optional", float | None, "Standard deviation of the noise in units of the field, by default "
        "estimated.", '"richardson_lucy" stops at it; 0 for all iterations.',
    ),
    "iterations": Argument(None, "int, optional", int | None, "Maximum iterations of richardson_lucy (100)."),
    "damping": Argument(None, "float, optional", float | None, "Weight of total variation in richardson_lucy (0)."),
    "parameter": Argument(
        None, "float, optional", float | None, "Weight of the roughness of wiener and tikhonov, by default "
        "cross-validated.",
    ),
    "order": Argument(
        None, "{1, 2}, optional", int | None, "Order of the Sobolev seminorm of tikhonov, 1 or 2 (1)."
    ),
    "dims": Argument(
        None, "str or sequence of str, optional", str | None,
        "One to three dimensions of a point-spread function in cells: lev, or lev,lat,lon.",
        "In the order of its axes; by default the two horizontal ones.",
    ),
}  # fmt: skip

# The argument of :func:`downscale.conserve` that is not one of a request.
CONSERVE = {
    "constraint": Argument(
        "auto", '{"auto", "additive", "multiplicative", "bounded"}', str,
        "How cell means are imposed: additive, multiplicative, bounded, or auto.",
        """"additive" adds to each fine cell (any sign, no bounds), "multiplicative" scales values of at least 0 and
        preserves zeros, "bounded" adds and clips to the bounds. "auto" is "bounded" for quantities with bounds, else
        "additive".""", one_of("auto", "additive", "multiplicative", "bounded"),
    ),
}  # fmt: skip


def require_legal(name: str, value: Any, expects: Callable[[Any], str | None] | None = None) -> None:
    """Raise an OptionError if a value of this argument is not legal, by its declaration if ``expects`` is None."""
    expected = (expects or ARGUMENTS[name].expects)(value)
    if expected is not None:
        raise OptionError(f"expected {spell(name)} to be {expected}, received {value!r}")


def _conflict(required: str, other: str, value: str) -> OptionError:
    return OptionError(f"expected {required} with {spell(other)}, received {value}; drop one")


def read_request(arguments: Mapping[str, Any]) -> Request:
    """Return the request with these arguments; raises an OptionError if a name is unknown."""
    require_arguments(arguments, ARGUMENTS)
    return Request(**arguments)


def require_arguments(arguments: Iterable[str], known: Collection[str]) -> None:
    """Raise an OptionError if an argument is not among the known ones."""
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise OptionError(f"expected an argument among {listing(known)}, received {listing(unknown)}")


def require_variables(option: str, value: Any, names: Sequence[str]) -> None:
    """Raise an OptionError if an option by variable names a variable that is not among these."""
    unknown = [key for key in value if key not in names] if isinstance(value, Mapping) else []
    if unknown:
        raise OptionError(f"expected {spell(option)} of variables among {listing(names)}, received {listing(unknown)}")


def takes(declarations: Mapping[str, Argument]) -> Callable[[FunctionT], FunctionT]:
    """Return a decorator that puts declared arguments in place of ``**options`` in a signature and a docstring.

    Arguments that the function names itself keep their place; the others follow as keywords.
    """

    def decorate(function: FunctionT) -> FunctionT:
        signature = inspect.signature(function)
        parameters = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=Any)
            for name, entry in declarations.items() if name not in signature.parameters
        ]  # fmt: skip
        lines = []
        for name, entry in declarations.items():
            text = textwrap.fill(f"{entry.help} {entry.details}", WIDTH - 8, break_on_hyphens=False)
            lines.append(f"{name} : {entry.kind}\n{textwrap.indent(text, ' ' * 4)}")
        function.__signature__ = signature.replace(parameters=[*parameters, *keywords])  # type: ignore[attr-defined]
        function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("{arguments}", "\n".join(lines))
        return function

    return decorate


takes_request = takes(ARGUMENTS)
