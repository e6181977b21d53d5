"""Scores of predictions against a reference, as running sums over any number of maps.

Each score is a function of the sums, so that maps may be scored one by one, in any order and in parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from downscale.errors import OptionError, ShapeError, listing
from downscale.fields.gradient import Spacing, sobel
from downscale.fields.spectrum import has_rings, mean_steps, radial_power, rings, taper
from downscale.metrics.distribution import Distribution
from downscale.metrics.ensemble import Ranks, crps, spread_skill
from downscale.metrics.events import Fractions, check_scales

Floats = NDArray[np.float64]
NAN = float("nan")


@dataclass(frozen=True)
class Moments:
    """First and second moments of a prediction and a target, about their means.

    References
    ----------
    Chan, T. F., Golub, G. H. and LeVeque, R. J. (1983), Algorithms for computing the sample variance: analysis and
    recommendations, The American Statistician 37, 242-247.
    """

    weight: float = 0.0  # sum of weights
    # Weighted means.
    mean: float = 0.0
    true_mean: float = 0.0
    # Weighted sums of squared departures from the means, and of their product.
    square: float = 0.0
    true_square: float = 0.0
    product: float = 0.0

    @classmethod
    def of(cls, prediction: Floats, target: Floats, weight: Floats) -> Moments:
        """Return the moments of finite values of one shape."""
        total = float(weight.sum())
        if total == 0:
            return cls()
        mean, true_mean = float((weight * prediction).sum()) / total, float((weight * target).sum()) / total
        anomaly, true_anomaly = prediction - mean, target - true_mean
        sums = [
            float((weight * a * b).sum())
            for a, b in ((anomaly, anomaly), (true_anomaly, true_anomaly), (anomaly, true_anomaly))
        ]
        return cls(total, mean, true_mean, *sums)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both together."""
        total = self.weight + other.weight
        if total == 0:
            return self
        fraction = other.weight / total
        step, true_step = other.mean - self.mean, other.true_mean - self.true_mean
        joint_weight = self.weight * fraction
        return Moments(
            total,
            self.mean + fraction * step,
            self.true_mean + fraction * true_step,
            self.square + other.square + joint_weight * step**2,
            self.true_square + other.true_square + joint_weight * true_step**2,
            self.product + other.product + joint_weight * step * true_step,
        )

    @property
    def bias(self) -> float:
        """Mean difference; NaN without values."""
        return self.mean - self.true_mean if self.weight > 0 else NAN

    @property
    def correlation(self) -> float:
        """Pearson's correlation; NaN if either field is constant."""
        # Departures of a constant from its mean are rounding errors.
        least = [self.weight * (8 * np.finfo(float).eps * mean) ** 2 for mean in (self.mean, self.true_mean)]
        if self.square <= least[0] or self.true_square <= least[1]:
            return float("nan")
        return float(np.clip(self.product / (self.square**0.5 * self.true_square**0.5), -1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Spectra:
    """Sums of ring-averaged power over maps."""

    wavenumber: Floats  # (n_rings,): in cycles per m, or per cell without spacing
    # (n_rings,): sums of the power of predictions and targets, in units of the field squared, each map with its
    # weight.
    prediction: Floats
    target: Floats
    weight: float  # sum of the weights of maps

    @classmethod
    def of(cls, prediction: Floats, target: Floats, weight: Floats, spacing: Spacing | None = None) -> Spectra | None:
        """Return the sums over predictions (n_members, n_maps, n_y, n_x), targets and weights (n_maps, n_y, n_x).

        Cells without weight are gaps in both fields. Members are averaged in power, not in phase, because their mean is
        too smooth. None if maps are too small, or too elongated, for a spectrum.
        """
        shape = (target.shape[-2], target.shape[-1])
        closed, step = (False, (1.0, 1.0)) if spacing is None else (spacing.periodic, mean_steps(spacing))
        if not has_rings(shape, step):
            return None
        table = rings(shape, step)
        window, valid, map_weight = taper(shape, closed), weight > 0, weight.sum(axis=(-2, -1))
        power = radial_power(prediction, np.broadcast_to(valid, prediction.shape), window, table).mean(axis=0)
        true_power = radial_power(target, valid, window, table)
        return cls(table.wavenumber, map_weight @ power, map_weight @ true_power, float(map_weight.sum()))

    def merge(self, other: Spectra) -> Spectra:
        """Return the sums of both together."""
        same = self.wavenumber.shape == other.wavenumber.shape
        if not same or not np.allclose(self.wavenumber, other.wavenumber, rtol=1e-6, atol=0):
            raise ShapeError(
                f"expected spectra of maps of one shape and spacing, received {self.wavenumber.size} and "
                f"{other.wavenumber.size} rings; score other grids apart"
            )
        sums = (self.prediction + other.prediction, self.target + other.target, self.weight + other.weight)
        return Spectra(self.wavenumber, *sums)

    @property
    def power(self) -> tuple[Floats, Floats]:
        """Mean spectra of prediction and target; NaN without data."""
        weight = self.weight if self.weight > 0 else np.nan
        return self.prediction / weight, self.target / weight

    @property
    def distance(self) -> float:
        """Root mean square over rings of the ratio of both spectra in decibels; infinite if one has no power."""
        has_power = (self.prediction > 0) | (self.target > 0)
        if not has_power.any():
            return float("nan")
        with np.errstate(divide="ignore"):
            ratio = 10 * (np.log10(self.prediction[has_power]) - np.log10(self.target[has_power]))
        return float((ratio**2).mean() ** 0.5)


@dataclass(frozen=True, eq=False)
class Setting:
    """Settings of scores.

    Attributes
    ----------
    spacing : Spacing, optional
        Distances in metres, for gradients and spectra; without it gradients have no score.
    wet : float, optional
        Least value of a wet cell, in units of the field (1 mm per day is 1.157e-5 kg m-2 s-1).
    extreme : float
        Level of the extreme quantile.
    thresholds : tuple of float
        Least values of events for the fractions skill score; none by default.
    scales : tuple of int
        Odd widths of its windows in cells.
    """

    spacing: Spacing | None = None
    wet: float | None = None
    extreme: float = 0.999
    thresholds: tuple[float, ...] = ()
    scales: tuple[int, ...] = (1, 5, 17, 65)

    def __post_init__(self) -> None:
        check_scales(self.scales)
        if not 0 < self.extreme < 1:
            raise OptionError(f"expected an extreme level between 0 and 1, received {self.extreme!r}; such as 0.999")


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums over valid cells, all of them additive.

    ``cells`` maps a name to the sum of weight times value: ``weight``, ``missing`` (target without prediction),
    ``absolute``, ``square`` (of the error of the mean of members), ``crps``, ``variance`` (of members), ``wet``,
    ``true_wet``, ``slope_weight``, ``slope_square``.
    """

    cells: dict[str, float] = field(default_factory=dict)
    moments: Moments = field(default_factory=Moments)
    prediction: Distribution = field(default_factory=Distribution)
    target: Distribution = field(default_factory=Distribution)
    spectra: Spectra | None = None
    ranks: Ranks = field(default_factory=Ranks)
    fractions: Fractions = field(default_factory=Fractions)

    def merge(self, other: Sums) -> Sums:
        """Return the sums of both together."""
        names = self.cells.keys() | other.cells.keys()
        cells = {name: self.cells.get(name, 0.0) + other.cells.get(name, 0.0) for name in sorted(names)}
        spectra = other.spectra if self.spectra is None else self.spectra
        if self.spectra is not None and other.spectra is not None:
            spectra = self.spectra.merge(other.spectra)
        prediction, target = self.prediction.merge(other.prediction), self.target.merge(other.target)
        ranks, fractions = self.ranks.merge(other.ranks), self.fractions.merge(other.fractions)
        return Sums(cells, self.moments.merge(other.moments), prediction, target, spectra, ranks, fractions)

    def mean(self, name: str, weight_name: str = "weight") -> float:
        """Return a sum divided by its weight; NaN without weight."""
        weight = self.cells.get(weight_name, 0.0)
        return self.cells[name] / weight if weight > 0 and name in self.cells else NAN

    @property
    def missing(self) -> float:
        """Weight of targets without prediction relative to that of all targets; NaN without targets."""
        missing, scored = self.cells.get("missing", 0.0), self.cells.get("weight", 0.0)
        return missing / (missing + scored) if missing + scored > 0 else NAN


class Scores:
    """Running scores of one variable.

    Parameters
    ----------
    setting : Setting, optional
        Spacing and thresholds.

    Examples
    --------
    >>> scores = Scores()
    >>> scores.add(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]), np.array([[3.0, 1.0]]))
    >>> scores["rmse"], scores["bias"]
    (1.0, -0.5)
    """

    def __init__(self, setting: Setting | None = None) -> None:
        self.setting = Setting() if setting is None else setting
        self.sums = Sums()
        self.members: int | None = None

    def add(self, prediction: ArrayLike, target: ArrayLike, weight: ArrayLike = 1.0) -> None:
        """Add maps.

        Parameters
        ----------
        prediction : array, shape (..., n_y, n_x) or (n_members, ..., n_y, n_x)
            An additional first dimension holds ensemble members. RMSE, MAE, bias and correlation refer to the mean of
            the members, all other scores to the members themselves.
        target : array, shape (..., n_y, n_x)
            Cells with a missing target or weight are ignored. Cells with a target but without a prediction are also
            ignored, and the score ``missing`` is their area fraction.
        weight : array that broadcasts to the target
            Areas times mask.

        Raises
        ------
        ShapeError
            If shapes do not match, or the number of members differs from that of earlier maps.
        """
        members, targets, weights, missing = _mask_arrays(prediction, target, weight)
        if self.members not in (None, len(members)):
            raise ShapeError(f"expected {self.members} members as before, received {len(members)}; score them apart")
        self.members = len(members)
        self.sums = self.sums.merge(_sums(members, targets, weights, missing, self.setting))

    def merge(self, other: Scores) -> Scores:
        """Return the scores of the maps of both together."""
        own_settings, other_settings = (
            (scores.setting.wet, scores.setting.extreme, scores.setting.thresholds, scores.setting.scales)
            for scores in (self, other)
        )
        if own_settings != other_settings:
            raise OptionError(
                f"expected scores of one wet threshold and extreme level, and of the same events, received "
                f"{own_settings} and {other_settings}"
            )
        if None not in (self.members, other.members) and self.members != other.members:
            raise ShapeError(f"expected scores of as many members, received {self.members} and {other.members}")
        result = Scores(self.setting)
        result.members = other.members if self.members is None else self.members
        result.sums = self.sums.merge(other.sums)
        return result

    def __getitem__(self, name: str) -> float:
        """Return one score by its name; NaN if undefined."""
        if name not in SCORES:
            raise OptionError(f"expected a score among {listing(SCORES)}, received {name!r}")
        return float(SCORES[name](self))

    def result(self) -> dict[str, float]:
        """Return all scores by name; NaN for undefined ones."""
        return {name: self[name] for name in SCORES}

    def quantiles(self, levels: ArrayLike) -> tuple[Floats, Floats]:
        """Return area-weighted quantiles of predictions and targets, one per level."""
        prediction, target = self.sums.prediction, self.sums.target
        probs = np.atleast_1d(np.asarray(levels, dtype=np.float64))
        return np.array([prediction.quantile(q) for q in probs]), np.array([target.quantile(q) for q in probs])

    @property
    def ranks(self) -> Ranks:
        """Rank histogram, empty for a single field."""
        return self.sums.ranks

    @property
    def fractions(self) -> Floats:
        """Fractions skill score, shape (n_thresholds, n_scales)."""
        return self.sums.fractions.score

    @property
    def spectra(self) -> Spectra | None:
        """Mean power spectra, None if maps are too small for one."""
        return self.sums.spectra


def score(name: str, prediction: ArrayLike, target: ArrayLike, weight: ArrayLike = 1.0, **setting: Any) -> float:
    """Return one score of fields in memory; arguments as for ``Scores.add`` and ``Setting``.

    Examples
    --------
    >>> score("mae", [[1.0, 2.0]], [[0.0, 4.0]])
    1.5
    """
    scores = Scores(Setting(**setting))
    scores.add(prediction, target, weight)
    return scores[name]


def _mask_arrays(prediction: ArrayLike, target: ArrayLike, weight: ArrayLike) -> tuple[Floats, Floats, Floats, float]:
    """Return members (M, n, y, x), targets and weights (n, y, x), zero for ignored cells, and the ignored weight."""
    members, targets = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if members.ndim == targets.ndim:
        members = members[None]
    if targets.ndim < 2 or members.shape[1:] != targets.shape or not len(members):
        received = f"{np.shape(prediction)} and {targets.shape}"
        raise ShapeError(f"expected a prediction of the target's shape, members first if any, received {received}")
    weights = np.broadcast_to(np.asarray(weight, dtype=np.float64), targets.shape)
    has_target = np.isfinite(targets) & (weights > 0)
    valid = has_target & np.isfinite(members).all(axis=0)
    missing = float(weights[has_target & ~valid].sum())
    shape = (-1, *targets.shape[-2:])
    members = np.where(valid, members, 0.0).reshape(len(members), *shape)
    return members, np.where(valid, targets, 0.0).reshape(shape), np.where(valid, weights, 0.0).reshape(shape), missing


def _sums(members: Floats, target: Floats, weight: Floats, missing: float, setting: Setting) -> Sums:
    mean = members.mean(axis=0)
    error = mean - target
    cells = {
        "weight": weight.sum(),
        "missing": missing,
        "absolute": (weight * np.abs(error)).sum(),
        "square": (weight * error**2).sum(),
        "crps": (weight * crps(members, target)).sum(),
    }
    if len(members) > 1:
        cells["variance"] = (weight * members.var(axis=0, ddof=1)).sum()
    if setting.wet is not None:
        cells["wet"] = (weight * (members >= setting.wet).mean(axis=0)).sum()
        cells["true_wet"] = (weight * (target >= setting.wet)).sum()
    if setting.spacing is not None:
        cells |= _slope_sums(members, target, weight, setting.spacing)
    spectra = Spectra.of(members, target, weight, setting.spacing)
    distribution = Distribution.of(members, weight / len(members))
    totals = {name: float(value) for name, value in cells.items()}
    ranks = Ranks.of(members, target, weight) if len(members) > 1 else Ranks()
    events = Fractions()
    if setting.thresholds:
        events = Fractions.of(members, target, weight, setting.thresholds, setting.scales)
    return Sums(
        totals, Moments.of(mean, target, weight), distribution, Distribution.of(target, weight), spectra, ranks, events
    )


def _slope_sums(members: Floats, target: Floats, weight: Floats, spacing: Spacing) -> dict[str, float]:
    """Return sums of squared differences of gradients, for stencils without missing cells."""
    has_gap = np.pad(weight == 0, ((0, 0), (0, 0), (1, 1)), mode="wrap" if spacing.periodic else "edge")
    has_gap = has_gap[..., :-2] | has_gap[..., 1:-1] | has_gap[..., 2:]
    has_gap = np.pad(has_gap, ((0, 0), (1, 1), (0, 0)), mode="edge")
    complete_weight = np.where(has_gap[:, :-2] | has_gap[:, 1:-1] | has_gap[:, 2:], 0.0, weight)
    east, north = sobel(members - target, spacing)
    return {
        "slope_weight": float(complete_weight.sum()),
        "slope_square": float((complete_weight * (east**2 + north**2).mean(axis=0)).sum()),
    }


# In units of the field, except correlation, spread_skill, wet frequencies and missing (dimensionless), gradient_rmse
# (units of the field per m), spectral_distance (decibels).
SCORES: dict[str, Callable[[Scores], float]] = {
    "rmse": lambda scores: scores.sums.mean("square") ** 0.5,
    "mae": lambda scores: scores.sums.mean("absolute"),
    "bias": lambda scores: scores.sums.moments.bias,
    "correlation": lambda scores: scores.sums.moments.correlation,
    "crps": lambda scores: scores.sums.mean("crps"),
    "spread": lambda scores: scores.sums.mean("variance") ** 0.5,
    "spread_skill": lambda s: spread_skill(s.sums.mean("variance"), s.sums.mean("square"), s.members or 0),
    "rank_unevenness": lambda scores: scores.sums.ranks.unevenness,
    "rank_flatness": lambda scores: scores.sums.ranks.flatness,
    "extreme": lambda scores: scores.sums.prediction.quantile(scores.setting.extreme),
    "true_extreme": lambda scores: scores.sums.target.quantile(scores.setting.extreme),
    "extreme_bias": lambda scores: scores["extreme"] - scores["true_extreme"],
    "wet_frequency": lambda scores: scores.sums.mean("wet"),
    "true_wet_frequency": lambda scores: scores.sums.mean("true_wet"),
    "gradient_rmse": lambda scores: scores.sums.mean("slope_square", "slope_weight") ** 0.5,
    "spectral_distance": lambda scores: NAN if scores.spectra is None else scores.spectra.distance,
    "missing": lambda scores: scores.sums.missing,
}
