"""Losses by name, with their options and inputs from the context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from downscale.errors import OptionError, ShapeError
from downscale.fields.spectrum import steps
from downscale.losses.closure import soft_closure
from downscale.losses.context import LossContext
from downscale.losses.counted import check_positive
from downscale.losses.crps import fair_crps, standard_crps
from downscale.losses.penalty import TerrainPenalty
from downscale.losses.pointwise import huber, mae, mse
from downscale.losses.quantile import checked_levels, crps_of_quantiles, pinball
from downscale.losses.smoothness import kernel_smoothness
from downscale.losses.sobolev import sobolev_loss, steepness
from downscale.losses.spectral import spectral_distance
from downscale.losses.tversky import check_tversky, soft_tversky

if TYPE_CHECKING:
    from torch import Tensor

# Members of the prediction, if any, are along dimension 0, so that it broadcasts with the target.
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class SquaredError:
    """``mse``."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale`` squared."""
        return mse(prediction / context.scale, target / context.scale, weight)


@dataclass(frozen=True)
class AbsoluteError:
    """``mae``."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale``."""
        return mae(prediction / context.scale, target / context.scale, weight)


@dataclass(frozen=True)
class Huber:
    """``huber``; ``delta`` in units of the scale."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        check_positive("Huber delta", self.delta)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale`` squared."""
        return huber(prediction / context.scale, target / context.scale, weight, delta=self.delta)


@dataclass(frozen=True)
class Sobolev:
    """``sobolev_loss``; ``length`` in metres."""

    length: float | None = None
    values: float = 1.0

    def __post_init__(self) -> None:
        check_positive("Sobolev loss length", self.length or 0.0, zero=True)
        check_positive("Sobolev loss values", self.values, zero=True)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale`` squared."""
        made, true = prediction / context.scale, target / context.scale
        spacing = context.need("spacing", "sobolev")
        return sobolev_loss(made, true, weight, spacing=spacing, length=self.length, values=self.values)


@dataclass(frozen=True)
class Terrain:
    """``steepness``: penalty on slopes above ``base_gradient + ratio * slope of orography``, per mean cell width."""

    base_gradient: float
    ratio: float = 0.0

    def __post_init__(self) -> None:
        TerrainPenalty(self.base_gradient, self.ratio)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale`` per cell width, squared."""
        spacing = context.need("spacing", "terrain")
        orog = context.need("orog", "terrain") if self.ratio else None
        dy, dx = steps(spacing)
        allowed = TerrainPenalty(self.base_gradient, self.ratio).allowed(orog, prediction.detach(), spacing)
        unit = context.scale / (dy * dx) ** 0.5
        return steepness(prediction, target, weight, spacing=spacing, allowed=allowed, scale=unit)


@dataclass(frozen=True)
class Smoothness:
    """``kernel_smoothness`` of the kernels of the context."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss, which does not depend on the prediction."""
        return kernel_smoothness(context.need("kernels", "smoothness"))


@dataclass(frozen=True)
class Spectral:
    """``spectral_distance``; in units of cells if the context has no spacing."""

    floor: float = 1e-6

    def __post_init__(self) -> None:
        check_positive("spectral floor", self.floor)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the dimensionless loss."""
        spacing = context.spacing
        step, closed = ((1.0, 1.0), False) if spacing is None else (steps(spacing), spacing.periodic)
        return spectral_distance(prediction, target, weight, step=step, periodic=closed, floor=self.floor)


@dataclass(frozen=True)
class Quantile:
    """``pinball``; a single level needs no dimension for it."""

    levels: Numbers = (0.5,)

    def __post_init__(self) -> None:
        checked_levels(self.levels)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale``."""
        made, true = prediction / context.scale, target / context.scale
        whole = made[None] if context.members is None else made
        return pinball(whole, true, weight, levels=self.levels)


@dataclass(frozen=True)
class QuantileCrps:
    """``crps_of_quantiles``."""

    levels: Numbers

    def __post_init__(self) -> None:
        checked_levels(self.levels, increasing=True)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale``."""
        context.need("members", "crps_quantile")
        return crps_of_quantiles(prediction / context.scale, target / context.scale, weight, levels=self.levels)


@dataclass(frozen=True)
class Crps:
    """``fair_crps``, or ``standard_crps`` if ``fair`` is False."""

    fair: bool = True

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale``."""
        context.need("members", "crps")
        score = fair_crps if self.fair else standard_crps
        return score(prediction / context.scale, target / context.scale, weight)


@dataclass(frozen=True)
class Closure:
    """``soft_closure``."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the loss in units of ``context.scale`` squared; the scale must be one number per map."""
        coarse, cells = context.need("coarse", "closure"), context.need("cells", "closure")
        scale = context.scale
        if not isinstance(scale, (int, float)) and scale.ndim > 1 and max(scale.shape[-2:]) > 1:
            raise ShapeError(f"expected one scale per map for loss 'closure', received shape {tuple(scale.shape)}")
        return soft_closure(prediction / scale, target / scale, weight, coarse=coarse / scale, cells=cells)


@dataclass(frozen=True)
class Tversky:
    """``soft_tversky``; ``thresholds`` and ``width`` in units of the field."""

    thresholds: Numbers
    width: float
    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 1e-6

    def __post_init__(self) -> None:
        check_tversky(self.thresholds, self.width, self.alpha, self.beta, self.smooth)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the dimensionless loss."""
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


def number(value: Any, what: str) -> float:
    """Return ``value`` as a float.

    Raises
    ------
    OptionError
        If it is not a finite number.
    """
    # YAML reads 1e-3 as text.
    try:
        found = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if found - found != 0:
        raise OptionError(f"expected {what} to be a number, received {value!r}")
    return found
