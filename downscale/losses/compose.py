"""Weighted sums of named loss terms, built from a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from downscale.errors import OptionError, ShapeError, listing
from downscale.fields.aggregate import Aggregation
from downscale.fields.gradient import Spacing
from downscale.fields.spectrum import mean_steps
from downscale.losses.penalty import TerrainPenalty
from downscale.losses.pointwise import check_positive, huber, mae, mse
from downscale.losses.probabilistic import (
    check_levels,
    check_tversky,
    crps_of_quantiles,
    fair_crps,
    pinball,
    soft_tversky,
    standard_crps,
)
from downscale.losses.spatial import kernel_smoothness, sobolev_loss, soft_closure, spectral_distance, steepness

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LossContext:
    """Additional inputs of losses for one batch.

    Attributes
    ----------
    spacing : Spacing, optional
        Distances of the fine cells in metres; arrays of patches of several places have leading dimensions.
    orog : tensor that broadcasts to (..., n_y, n_x), optional
        Fine orography in metres.
    coarse : tensor, shape (..., n_y, n_x), optional
        Coarse values x in the units of the prediction.
    cells : Aggregation, optional
        Aggregation from fine to coarse cells.
    kernels : tuple of tensors, optional
        Weights of convolutions, (..., k_y, k_x).
    members : int, optional
        Dimension of the prediction that the target lacks: ensemble members (or quantile levels).
    scale : tensor or float
        Units of errors, such as the standard deviation of each variable, broadcast to the target. Terms with units are
        divided by it. Thresholds and slopes stay in the units of the field.
    variables : tuple of str
        Names along dimension -3 of prediction and target.
    """

    spacing: Spacing | None = None
    orog: Tensor | None = None
    coarse: Tensor | None = None
    cells: Aggregation | None = None
    kernels: tuple[Tensor, ...] = ()
    members: int | None = None
    scale: Tensor | float = 1.0
    variables: tuple[str, ...] = ()

    def need(self, name: str, loss: str) -> Any:
        """Return the attribute ``name``, which ``loss`` needs, or raise an OptionError."""
        value = getattr(self, name)
        if value is None or (name == "kernels" and not value):
            raise OptionError(f"expected {name!r} in the context of loss {loss!r}, received none; leave out that loss")
        return value

    def positions(self, names: Sequence[str]) -> list[int]:
        """Return the positions of variables along dimension -3."""
        unknown = [name for name in names if name not in self.variables]
        if unknown:
            raise OptionError(f"expected variables among {listing(self.variables)}, received {listing(unknown)}")
        return [self.variables.index(name) for name in names]


# Members of the prediction, if any, are along dimension 0, so that it broadcasts with the target.
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class SquaredError:
    """``mse``, in units of the scale squared."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        return mse(prediction / context.scale, target / context.scale, weight)


@dataclass(frozen=True)
class AbsoluteError:
    """``mae``, in units of the scale."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        return mae(prediction / context.scale, target / context.scale, weight)


@dataclass(frozen=True)
class Huber:
    """``huber``, in units of the scale squared; ``delta`` in units of the scale."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        check_positive("Huber delta", self.delta)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        return huber(prediction / context.scale, target / context.scale, weight, delta=self.delta)


@dataclass(frozen=True)
class Sobolev:
    """``sobolev_loss``, in units of the scale squared; ``length`` in metres."""

    length: float | None = None
    values: float = 1.0

    def __post_init__(self) -> None:
        check_positive("Sobolev loss length", self.length or 0.0, zero=True)
        check_positive("Sobolev loss values", self.values, zero=True)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        scaled_prediction, truth = prediction / context.scale, target / context.scale
        spacing = context.need("spacing", "sobolev")
        return sobolev_loss(scaled_prediction, truth, weight, spacing=spacing, length=self.length, values=self.values)


@dataclass(frozen=True)
class Terrain:
    """``steepness`` above ``base_gradient + ratio * terrain slope``, in units of the scale per cell width, squared."""

    base_gradient: float
    ratio: float = 0.0

    def __post_init__(self) -> None:
        TerrainPenalty(self.base_gradient, self.ratio)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        spacing = context.need("spacing", "terrain")
        orog = context.need("orog", "terrain") if self.ratio else None
        dy, dx = mean_steps(spacing)
        allowed_slope = TerrainPenalty(self.base_gradient, self.ratio).allowed(orog, prediction.detach(), spacing)
        unit = context.scale / (dy * dx) ** 0.5
        return steepness(prediction, target, weight, spacing=spacing, allowed_slope=allowed_slope, scale=unit)


@dataclass(frozen=True)
class Smoothness:
    """``kernel_smoothness`` of the kernels of the context; does not depend on the prediction."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        return kernel_smoothness(context.need("kernels", "smoothness"))


@dataclass(frozen=True)
class Spectral:
    """``spectral_distance``; in units of cells if the context has no spacing."""

    floor: float = 1e-6

    def __post_init__(self) -> None:
        check_positive("spectral floor", self.floor)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        spacing = context.spacing
        step, closed = ((1.0, 1.0), False) if spacing is None else (mean_steps(spacing), spacing.periodic)
        return spectral_distance(prediction, target, weight, step=step, periodic=closed, floor=self.floor)


@dataclass(frozen=True)
class Quantile:
    """``pinball``; a single level needs no dimension for it."""

    levels: Numbers = (0.5,)

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        scaled_prediction, truth = prediction / context.scale, target / context.scale
        quantiles = scaled_prediction[None] if context.members is None else scaled_prediction
        return pinball(quantiles, truth, weight, levels=self.levels)


@dataclass(frozen=True)
class QuantileCrps:
    """``crps_of_quantiles``."""

    levels: Numbers

    def __post_init__(self) -> None:
        check_levels(self.levels, increasing=True)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        context.need("members", "crps_quantile")
        return crps_of_quantiles(prediction / context.scale, target / context.scale, weight, levels=self.levels)


@dataclass(frozen=True)
class Crps:
    """``fair_crps``, or ``standard_crps`` if ``fair`` is False."""

    fair: bool = True

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        context.need("members", "crps")
        score = fair_crps if self.fair else standard_crps
        return score(prediction / context.scale, target / context.scale, weight)


@dataclass(frozen=True)
class Closure:
    """``soft_closure``, in units of the scale squared; the scale must be one number per map."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        coarse, cells = context.need("coarse", "closure"), context.need("cells", "closure")
        scale = context.scale
        if not isinstance(scale, (int, float)) and scale.ndim > 1 and max(scale.shape[-2:]) > 1:
            raise ShapeError(f"expected one scale per map for loss 'closure', received shape {tuple(scale.shape)}")
        return soft_closure(prediction / scale, target / scale, weight, coarse=coarse / scale, cells=cells)


@dataclass(frozen=True)
class Tversky:
    """``soft_tversky``, dimensionless; ``thresholds`` and ``width`` in units of the field."""

    thresholds: Numbers
    width: float
    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 1e-6

    def __post_init__(self) -> None:
        check_tversky(self.thresholds, self.width, self.alpha, self.beta, self.smooth)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss."""
        options: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return soft_tversky(prediction, target, weight, **options)


Term = Callable[["Tensor", "Tensor", "Tensor | None", LossContext], "Tensor"]
TERMS: dict[str, type] = {
    "mse": SquaredError,
    "mae": AbsoluteError,
    "huber": Huber,
    "sobolev": Sobolev,
    "terrain": Terrain,
    "smoothness": Smoothness,
    "spectral": Spectral,
    "quantile": Quantile,
    "crps": Crps,
    "crps_quantile": QuantileCrps,
    "closure": Closure,
    "tversky": Tversky,
}


def parse_number(value: Any, label: str) -> float:
    """Return ``value`` as a float, or raise an OptionError if it is not a finite number."""
    # YAML reads 1e-3 as text.
    try:
        result = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        result = float("nan")
    if result - result != 0:
        raise OptionError(f"expected {label} to be a number, received {value!r}")
    return result


@dataclass(frozen=True)
class WeightedTerm:
    """One term of a sum, with its name in the log, its weight (0 is only logged) and its variables (all if empty)."""

    name: str
    weight: float
    term: Term
    variables: tuple[str, ...] = ()

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the unweighted value of the term."""
        if self.variables:
            prediction, target, weight, context = _select_variables(self.variables, prediction, target, weight, context)
        return self.term(prediction, target, weight, context)


@dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of losses.

    Examples
    --------
    >>> loss = WeightedSum.from_config({"mse": 1.0, "huber": {"weight": 0.5, "delta": 2.0}})
    >>> total, values = loss.measure(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    >>> float(total), {name: float(value) for name, value in values.items()}
    (5.0, {'mse': 4.0, 'huber': 2.0})
    """

    terms: tuple[WeightedTerm, ...]
    context: LossContext = field(default_factory=LossContext)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], context: LossContext | None = None) -> WeightedSum:
        """Return the sum from ``{name: weight}`` or ``{name: {"weight": ..., option: ...}}``.

        ``variables`` restricts a term to some variables. ``loss`` names the loss of a term with another name, so that
        the same loss can occur twice.

        Parameters
        ----------
        config : mapping
            Losses of a recipe.
        context : LossContext, optional
            Context that is the same for all batches.

        Raises
        ------
        OptionError
            If a name or an option is unknown, missing or of the wrong kind, or no weight is positive.
        """
        if not isinstance(config, Mapping) or not config:
            raise OptionError(f"expected losses by name, such as {{'mse': 1.0}}, received {config!r}")
        terms = tuple(_term(name, options) for name, options in config.items())
        if not any(term.weight > 0 for term in terms):
            raise OptionError(f"expected a positive weight for one of the losses {listing(config)}, received none")
        return cls(terms, LossContext() if context is None else context)

    def __call__(
        self, prediction: Tensor, target: Tensor, weight: Tensor | None = None, context: LossContext | None = None
    ) -> Tensor:
        """Return the weighted sum, differentiable; arguments as for ``measure``."""
        return self.measure(prediction, target, weight, context)[0]

    def measure(
        self, prediction: Tensor, target: Tensor, weight: Tensor | None = None, context: LossContext | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum, differentiable, and the detached unweighted value of each term by name.

        Parameters
        ----------
        prediction, target : tensors, shapes (..., n_y, n_x)
            In the same units; NaN targets are ignored. ``context.members`` is an extra dimension of the prediction.
        weight : tensor that broadcasts to the target, optional
            Areas times mask.
        context : LossContext, optional
            Context of this batch, instead of that given at construction.
        """
        context = self.context if context is None else context
        if context.members is not None:
            prediction = prediction.movedim(context.members, 0)
            context = replace(context, members=0)
        total, values = prediction.new_zeros((), dtype=torch.promote_types(prediction.dtype, torch.float32)), {}
        for term in self.terms:
            with torch.set_grad_enabled(torch.is_grad_enabled() and term.weight > 0):
                value = term(prediction, target, weight, context)
            values[term.name] = value.detach()
            if term.weight > 0:
                total = total + term.weight * value
        return total, values


def _select_variables(
    names: tuple[str, ...], prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext
) -> tuple[Tensor, Tensor, Tensor | None, LossContext]:
    index = context.positions(names)
    count = len(context.variables)

    def cut(tensor: Any) -> Any:
        has_variables = isinstance(tensor, torch.Tensor) and tensor.ndim >= 3 and tensor.shape[-3] == count
        return tensor[..., index, :, :] if has_variables else tensor

    part = replace(context, coarse=cut(context.coarse), scale=cut(context.scale), variables=names)
    return cut(prediction), cut(target), cut(weight), part


def _term(name: str, settings: Any) -> WeightedTerm:
    options = dict(settings) if isinstance(settings, Mapping) else {"weight": settings}
    loss = options.pop("loss", name)
    if not isinstance(loss, str) or loss not in TERMS:
        raise OptionError(f"expected a loss among {listing(TERMS)}, received {loss!r}")
    weight = parse_number(options.pop("weight", 1.0), f"the weight of loss {name!r}")
    if weight < 0:
        raise OptionError(f"expected the weight of loss {name!r} to be >= 0, received {weight!r}")
    variables = _names(options.pop("variables", ()), name)
    return WeightedTerm(name, weight, _build(TERMS[loss], name, options), variables)


def _build(kind: Any, name: str, options: dict[str, Any]) -> Term:
    options_by_name = {attribute.name: attribute for attribute in fields(kind)}
    unknown = [option for option in options if option not in options_by_name]
    if unknown:
        legal = listing([*options_by_name, "weight", "variables", "loss"])
        raise OptionError(f"expected options of loss {name!r} among {legal}, received {listing(unknown)}")
    missing = [
        option
        for option, attribute in options_by_name.items()
        if attribute.default is MISSING and option not in options
    ]
    if missing:
        received = listing(options) or "none"
        raise OptionError(f"expected loss {name!r} with option {listing(missing)}, received {received}")
    values = {option: _value(value, options_by_name[option].type, name, option) for option, value in options.items()}
    term: Term = kind(**values)
    return term


def _value(value: Any, kind: Any, name: str, option: str) -> Any:
    """Return a value of the option's type."""
    label = f"{option} of loss {name!r}"
    if kind == "bool":
        if not isinstance(value, bool):
            raise OptionError(f"expected {label} to be true or false, received {value!r}")
        return value
    if kind == "Numbers":
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise OptionError(f"expected {label} to be a list of numbers, received {value!r}")
        return tuple(parse_number(item, label) for item in value)
    return None if value is None and "None" in kind else parse_number(value, label)


def _names(variables: Any, name: str) -> tuple[str, ...]:
    names = (variables,) if isinstance(variables, str) else variables
    if not isinstance(names, Sequence) or not all(isinstance(item, str) for item in names):
        raise OptionError(f"expected variables of loss {name!r} to be a list of names, received {variables!r}")
    return tuple(names)
