"""Specification of a learned model: everything except its weights, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from downscale.errors import OptionError, ShapeError, listing

Bounds = tuple[float | None, float | None]

# Coarse channels per variable for each transform, and network outputs per model output; detail is their sum, each in
# its own unit.
FEATURES = {"linear": 1, "log1p": 1, "local": 4}
UNITS = {"linear": 1, "log1p": 2, "local": 2}
CONSTRAINTS = ("additive", "multiplicative", "softmax", "bounded", "none")
TRANSFORMS = tuple(FEATURES)
# Fine channels per static, and coarse channels per encoding: angles enter as sines and cosines.
STATICS: dict[str, tuple[str, ...]] = {
    "orog": ("orog",),
    "relief": ("relief",),
    "slope": ("slope",),
    "aspect": ("aspect_sin", "aspect_cos"),
    "sftlf": ("sftlf",),
    "climatology": ("climatology",),
    "lat": ("lat_sin", "lat_cos"),
    "lon": ("lon_sin", "lon_cos"),
}
ENCODINGS: dict[str, tuple[str, ...]] = {
    "day_of_year": ("day_of_year_sin", "day_of_year_cos"),
    "hour": ("hour_sin", "hour_cos"),
}


@dataclass(frozen=True)
class Variable:
    """A coarse input variable, which is also a fine output variable if it is among the outputs.

    Attributes
    ----------
    name, units, standard_name : str
        As in the files that the model was trained on.
    transform : {"linear", "log1p", "local"}
        Conversion of values to channels: ``(x - mean) / std``; the same with ``log1p(x / scale)``; or relative to the
        mean magnitudes nearby, which makes the network independent of units.
    mean, std, scale : float
        Parameters of the transform, from the training split.
    bounds : (float or None, float or None)
        Bounds of all values.

    Raises
    ------
    OptionError
        If the transform is unknown, or a number is not usable.
    """

    name: str
    units: str = "1"
    standard_name: str = ""
    transform: str = "linear"
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.0
    bounds: Bounds = (None, None)

    def __post_init__(self) -> None:
        _require_known(f"transform of {self.name!r}", self.transform, TRANSFORMS)
        for word in ("mean", "std", "scale"):
            value = getattr(self, word)
            if not _is_number(value) or (word != "mean" and value <= 0):
                raise OptionError(
                    f"{self.name}: expected {word} to be a finite number{'' if word == 'mean' else ' above zero'}, "
                    f"received {value!r}; fit it on the training split"
                )
        low, high = _as_pair(f"bounds of {self.name!r}", self.bounds)
        if any(bound is not None and not _is_number(bound) for bound in (low, high)) or (
            low is not None and high is not None and low >= high
        ):
            raise OptionError(f"{self.name}: expected bounds (low, high) or None for either, received {self.bounds!r}")
        object.__setattr__(self, "bounds", (low, high))


@dataclass(frozen=True)
class Event:
    """A rare event of the fine field, whose probability is the output of a segmentation model.

    Attributes
    ----------
    name : str
        Name of the flag variable in the output.
    threshold : float
        Value of the first output at which the event begins.
    side : {"above", "below"}
        Side of the threshold on which the event occurs, inclusive.
    width : float
        Difference from the threshold that changes the logit of an untrained model by one.

    Raises
    ------
    OptionError
        If a value is not usable.
    """

    name: str
    threshold: float
    side: str = "above"
    width: float = 1.0

    def __post_init__(self) -> None:
        _require_known("side of an event", self.side, ("above", "below"))
        if not str(self.name).isidentifier():
            raise OptionError(
                f"expected the name of an event to be letters, digits and underscores, received {self.name!r}"
            )
        if not _is_number(self.threshold) or not _is_number(self.width) or self.width <= 0:
            raise OptionError(
                f"expected a finite threshold and a width above zero for the event {self.name!r}, received "
                f"{self.threshold!r} and {self.width!r}"
            )

    @property
    def sign(self) -> int:
        """One where the event is above its threshold, else minus one."""
        return 1 if self.side == "above" else -1

    @property
    def names(self) -> tuple[str, str]:
        """Names of the flag in the output and of its probability."""
        return self.name, f"{self.name}_probability"


@dataclass(frozen=True)
class Code:
    """Code of a compressor: small integers per coarse cell alongside its mean.

    Attributes
    ----------
    channels : int
        Integers of one byte per coarse cell.
    width, depth : int
        Channels and residual blocks of the encoder.

    Raises
    ------
    OptionError
        If a number is not usable.
    """

    channels: int
    width: int = 48
    depth: int = 1

    def __post_init__(self) -> None:
        for word, least, most in (("channels", 1, 64), ("width", 1, 4096), ("depth", 0, 64)):
            value = getattr(self, word)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise OptionError(f"expected code.{word} to be from {least} to {most}, received {value!r}")

    def variables(self, name: str) -> tuple[Variable, ...]:
        """Return the coarse variables that hold the code of a field: from -1 to 1."""
        return tuple(Variable(f"{name}_code_{i + 1}", "1", std=0.5) for i in range(self.channels))


@dataclass(frozen=True)
class ModelSpec:
    """Everything of a learned model except its weights.

    Attributes
    ----------
    network : str
        Name of the network, see ``downscale.nn.networks.NETWORKS``.
    factor : (int, int)
        Refinement of rows and columns.
    outputs, predictors : tuple of Variable
        Coarse variables to refine, and additional input variables.
    statics : tuple of str
        Fine static input fields, of ``STATICS``.
    encodings : tuple of str
        Time input features, of ``ENCODINGS``.
    options : mapping
        Arguments of the network.
    constraint : {"additive", "multiplicative", "softmax", "bounded", "none"}
        How cell conservation is imposed; "none" leaves the sum of kernel and network unconstrained.
    taps, order
        Width and order of the Sobolev kernel that the network adds to.
    noise : (int, int)
        Channels of noise at coarse and at fine resolution; with any, the model generates ensemble members.
    event : Event or None
        Event of a segmentation model, whose output is the event's probability, without conservation.
    code : Code or None
        Code of a compressor, in which the last predictors are encoded from the fine fields themselves.
    kept : float
        Fraction of the network's detail that is added outside training. Below one reduces both gain and risk on data
        unlike the training data.

    Raises
    ------
    OptionError, ShapeError
        If a name is unknown, or a constraint does not fit the bounds of a variable.

    Examples
    --------
    >>> spec = ModelSpec("residual", (4, 4), (Variable("pr", "mm h-1", bounds=(0, None)),), constraint="bounded")
    >>> ModelSpec.from_dict(spec.to_dict()) == spec, spec.coarse_channels, spec.fine_channels
    (True, 2, 2)
    """

    network: str
    factor: tuple[int, int]
    outputs: tuple[Variable, ...]
    predictors: tuple[Variable, ...] = ()
    statics: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    constraint: str = "additive"
    taps: int = 7
    order: float = 1.25
    kept: float = 1.0
    noise: tuple[int, int] = (0, 0)
    event: Event | None = None
    code: Code | None = None

    def __post_init__(self) -> None:
        noise = _as_pair("noise", self.noise)
        if not all(isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= 256 for part in noise):
            raise OptionError(f"expected noise to be two numbers of channels from 0 to 256, received {self.noise!r}")
        object.__setattr__(self, "noise", noise)
        if not _is_number(self.kept) or not 0 < self.kept <= 1:
            raise OptionError(f"expected kept above 0 and up to 1, received {self.kept!r}")
        factor = _as_pair("factor", self.factor)
        if not all(isinstance(part, int) and not isinstance(part, bool) and part >= 1 for part in factor):
            raise ShapeError(f"expected factor to be two whole numbers from 1 on, received {self.factor!r}")
        object.__setattr__(self, "factor", factor)
        for word in ("outputs", "predictors", "statics", "encodings"):
            object.__setattr__(self, word, tuple(getattr(self, word)))
        if not self.outputs:
            raise OptionError("expected at least one output of a model, received none; name a variable")
        for word, table in (("statics", STATICS), ("encodings", ENCODINGS)):
            for name in getattr(self, word):
                _require_known(word, name, table)
        for word in ("names", "statics", "encodings"):
            _require_distinct(word, getattr(self, word))
        _require_known("constraint", self.constraint, CONSTRAINTS)
        if self.event is not None and (len(self.outputs) != 1 or self.constraint != "none" or any(self.noise)):
            raise OptionError(
                f"expected one output, the constraint 'none' and no noise for the event {self.event.name!r}, "
                f"received {len(self.outputs)}, {self.constraint!r} and {self.noise}"
            )
        if self.names[len(self.names) - len(self.code_names) :] != self.code_names:
            raise OptionError(f"expected the code {listing(self.code_names)} as last predictors, received others")
        if self.code is not None and self.constraint == "softmax":
            raise OptionError("expected another constraint than 'softmax' with a code, which stands for differences")
        for variable in self.outputs:
            _check_bounds(variable, self.constraint)

    @property
    def code_names(self) -> tuple[str, ...]:
        """Names of the coarse variables that hold the code of a compressor."""
        if self.code is None:
            return ()
        return tuple(variable.name for variable in self.code.variables(self.outputs[0].name))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coarse variables, outputs first."""
        return tuple(variable.name for variable in (*self.outputs, *self.predictors))

    @property
    def static_channels(self) -> tuple[str, ...]:
        """Names of the fine static input fields, in order."""
        return tuple(channel for name in self.statics for channel in STATICS[name])

    @property
    def in_proportion(self) -> bool:
        """Whether the detail of a climatology is relative to its coarse-cell means, as for rain."""
        return takes_ratios(self.outputs[0].transform)

    @property
    def time_channels(self) -> tuple[str, ...]:
        """Names of the time input values, in order."""
        return tuple(channel for name in self.encodings for channel in ENCODINGS[name])

    @property
    def input_channels(self) -> tuple[str, ...]:
        """Names of the coarse input fields of a bound model, in order: variables, then times."""
        return (*self.names, *self.time_channels)

    @property
    def coarse_channels(self) -> int:
        """Number of coarse channels of the network: features and a mask of each variable, times, and noise."""
        features = sum(FEATURES[variable.transform] for variable in (*self.outputs, *self.predictors))
        return features + len(self.names) + len(self.time_channels) + self.noise[0]

    @property
    def fine_channels(self) -> int:
        """Number of fine channels of the network: each proposal with its mask, statics, and noise."""
        return 2 * len(self.outputs) + len(self.static_channels) + self.noise[1]

    @property
    def stochastic(self) -> bool:
        """Whether the model generates members of an ensemble."""
        return any(self.noise)

    @property
    def units(self) -> tuple[int, ...]:
        """Number of network outputs for each model output, each with its own unit."""
        return tuple(UNITS[variable.transform] for variable in self.outputs)

    @property
    def laws(self) -> frozenset[str]:
        """Kinds of conservation satisfied by construction."""
        return frozenset() if self.constraint == "none" else frozenset({"cell", "total"})

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and texts, as in JSON."""
        plain = _to_plain(asdict(self))
        return {key: value for key, value in plain.items() if key not in ("event", "code") or value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Return the model from the result of :meth:`to_dict`.

        Raises
        ------
        OptionError
            If a key is unknown or missing, or a value is of the wrong kind.
        """
        arguments = _check_keys(cls, data, "a model")
        for word in ("outputs", "predictors"):
            arguments[word] = tuple(
                item if isinstance(item, Variable) else Variable(**_check_keys(Variable, item, f"a variable of {word}"))
                for item in _as_list(word, arguments.get(word, ()))
            )
        for word, kind, label in (("event", Event, "an event"), ("code", Code, "a code")):
            if arguments.get(word) is not None and not isinstance(arguments[word], kind):
                arguments[word] = kind(**_check_keys(kind, arguments[word], label))
        for word in ("statics", "encodings"):
            arguments[word] = tuple(_as_list(word, arguments.get(word, ())))
        if not isinstance(arguments.get("options", {}), Mapping):
            raise OptionError(f"expected options to be a mapping, received {arguments['options']!r}")
        return cls(**arguments)


def takes_ratios(transform: str) -> bool:
    """Return whether a network sees ratios to cell means, not differences, of a variable with this transform."""
    return transform != "linear"


def _check_keys(kind: type, data: Any, label: str) -> dict[str, Any]:
    """Return a mapping whose keys are fields of a dataclass, including all required ones."""
    names = {attribute.name: attribute for attribute in fields(kind)}
    if not isinstance(data, Mapping):
        raise OptionError(f"expected {label} to be a mapping, received {data!r}")
    unknown = [key for key in data if key not in names]
    if unknown:
        raise OptionError(f"expected the keys {listing(names)} for {label}, received {unknown[0]!r}; remove it")
    required = {Variable: ("name",), Event: ("name", "threshold"), Code: ("channels",),
              ModelSpec: ("network", "factor", "outputs")}[kind]  # fmt: skip
    missing = [key for key in required if key not in data]
    if missing:
        raise OptionError(f"expected the key {missing[0]!r} for {label}, received {listing(data) or 'none'}; add it")
    for key, value in data.items():
        if names[key].type == "str" and not isinstance(value, str):
            raise OptionError(f"expected {key} of {label} to be a text, received {value!r}")
    return dict(data)


def _as_list(word: str, value: Any) -> list[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise OptionError(f"expected {word} to be a list, received {value!r}")
    return list(value)


def _as_pair(word: str, value: Any) -> tuple[Any, Any]:
    pair = tuple(_as_list(word, value))
    if len(pair) != 2:
        raise OptionError(f"expected {word} to be a pair, received {value!r}")
    return pair


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and abs(value) < float("inf")


def _require_known(word: str, name: Any, table: Iterable[str]) -> None:
    if name not in table:
        raise OptionError(f"expected {word} to be among {listing(table)}, received {name!r}")


def _require_distinct(word: str, names: tuple[str, ...]) -> None:
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise OptionError(f"expected {word} that differ, received {repeated[0]!r} twice; name each once")


def _check_bounds(variable: Variable, constraint: str) -> None:
    low, high = variable.bounds
    if constraint in ("multiplicative", "softmax") and (low != 0 or high is not None):
        raise OptionError(
            f"expected bounds (0, None) for the {constraint} constraint, received {variable.bounds} of "
            f"{variable.name!r}; use 'bounded', or 'additive' where there are no bounds"
        )


def _to_plain(value: Any) -> Any:
    """Return lists for tuples and dicts for mappings, recursively."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    return [_to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
