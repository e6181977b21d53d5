"""Scores of events: binned counts of masks and probabilities, calibration of these, fractions skill score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from downscale.errors import OptionError, ShapeError

BINS = 100
# Bins of logits, of width 0.1; the last ones include all larger magnitudes.
LOGITS = np.linspace(-20.0, 20.0, 401)
# Keeps the fit finite if no logit is on the wrong side, and changes it by a ten-thousandth otherwise.
RIDGE = 1e-6
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EventCounts:
    """Areas with and without an event, by its forecast probability; counts of parts of the data add up.

    Attributes
    ----------
    event, other : array, shape (BINS,)
        Area in bins of probability where the event occurred, and where it did not.
    brier : float
        Sum of area times squared error of the probability.
    """

    event: NDArray[np.float64]
    other: NDArray[np.float64]
    brier: float

    @classmethod
    def of(cls, probability: ArrayLike, truth: ArrayLike, weight: ArrayLike = 1.0) -> EventCounts:
        """Return the counts; NaN in either input is ignored.

        Parameters
        ----------
        probability, truth, weight : arrays of shapes that broadcast
            Probability 0 to 1 (a mask: 0 or 1); 1 where the event occurred, else 0; area.
        """
        p, t, w = np.broadcast_arrays(*(np.asarray(array, np.float64) for array in (probability, truth, weight)))
        valid = np.isfinite(p) & np.isfinite(t) & (w > 0)
        p, t, w = p[valid], t[valid], w[valid]
        number = bin_of(p)
        event, other = (np.bincount(number, w * part, BINS).astype(float) for part in (t, 1 - t))
        return cls(event, other, float((w * (p - t) ** 2).sum()))

    def __add__(self, counts: EventCounts) -> EventCounts:
        return EventCounts(self.event + counts.event, self.other + counts.other, self.brier + counts.brier)

    def scores(self, decision: float = 0.5) -> dict[str, float]:
        """Return CSI, recall, precision, F1, F2, frequency bias, Brier score and base rate for a decision threshold.

        Scores of zero over zero are NaN. ``decision`` has a resolution of 0.01.

        Examples
        --------
        >>> counts = EventCounts.of([0.9, 0.8, 0.1, 0.2], [1, 0, 1, 0])
        >>> counts.scores()["csi"].__round__(3), counts.scores()["recall"]
        (0.333, 0.5)
        """
        first = int(np.ceil(decision * BINS - 1e-6))
        hits, false_alarms, missed = self.event[first:].sum(), self.other[first:].sum(), self.event[:first].sum()
        area = self.event.sum() + self.other.sum()
        ratio = {
            "csi": (hits, hits + false_alarms + missed),
            "recall": (hits, hits + missed),
            "precision": (hits, hits + false_alarms),
            "f1": (2 * hits, 2 * hits + false_alarms + missed),
            "f2": (5 * hits, 5 * hits + false_alarms + 4 * missed),
            "frequency_bias": (hits + false_alarms, hits + missed),
            "brier": (self.brier, area),
            "base_rate": (hits + missed, area),
        }
        return {name: float(top / bottom) if bottom > 0 else float("nan") for name, (top, bottom) in ratio.items()}

    def best(self, score: str = "csi") -> tuple[float, float]:
        """Return the decision threshold with the highest score, in steps of 0.01, and that score."""
        scores = [(self.scores(i / BINS)[score], i / BINS) for i in range(1, BINS)]
        value, level = max(scores, key=lambda pair: (np.nan_to_num(pair[0], nan=-1.0), -abs(pair[1] - 0.5)))
        return level, value

    def reliability(self, bins: int = 10) -> dict[str, Any]:
        """Return bin centre, observed frequency, and fraction of the area, by bin of probability."""
        event, other = (part.reshape(bins, -1).sum(axis=1) for part in (self.event, self.other))
        area = event + other
        with np.errstate(invalid="ignore"):
            middle = (np.arange(bins) + 0.5) / bins
            return {"probability": middle, "frequency": event / area, "share": area / area.sum()}


def occurs(rule: Any, values: Any) -> Any:
    """Return where values of an array or tensor are in an event, False where they are missing.

    ``rule`` has a ``threshold``, and a ``sign``: 1 for an event above it, -1 for one below.
    """
    return rule.sign * values >= rule.sign * rule.threshold


def bin_of(probability: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bin of each probability; the lower edge belongs to the bin."""
    return np.clip(np.floor(probability * BINS + 1e-6).astype(np.int64), 0, BINS - 1)


def logit_counts(logit: ArrayLike, truth: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
    """Return areas with and without the event by bin of logit, shape (2, LOGITS).

    The arrays have one shape: logits, 1 where the event occurred and 0 elsewhere, and areas; NaN is ignored.
    """
    x, t, w = (np.asarray(array, np.float64).ravel() for array in (logit, truth, weight))
    valid = np.isfinite(x) & np.isfinite(t) & (w > 0)
    x, t, w = x[valid], t[valid], w[valid]
    number = np.clip(np.rint((x - LOGITS[0]) / (LOGITS[1] - LOGITS[0])), 0, len(LOGITS) - 1).astype(np.int64)
    return np.stack([np.bincount(number, w * part, len(LOGITS)) for part in (t, 1 - t)])


def calibration(counts: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and shift of the logits that calibrate their probabilities, by maximum likelihood.

    ``sigmoid(slope * logit + shift)`` preserves the order of cells, so that the possible masks by threshold do not
    change. Logits stay unchanged if the event occurs nowhere or everywhere, or if the logits are uninformative.

    Parameters
    ----------
    counts : array, shape (2, LOGITS)
        From :func:`logit_counts`, of data held out from the training of the logits.

    Returns
    -------
    float, float
        Slope, above zero, and shift.

    Notes
    -----
    Platt (1999), Probabilistic outputs for support vector machines, in Advances in Large Margin Classifiers.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> logit = rng.normal(-2, 2, 100_000)
    >>> event = rng.random(logit.size) < 1 / (1 + np.exp(-logit))
    >>> slope, shift = calibration(logit_counts(3 * logit + 1, event, np.ones(logit.size)))
    >>> round(3 * slope, 1), round(slope + shift, 1)
    (1.0, 0.0)
    """
    from scipy.optimize import minimize

    fractions = counts / max(counts.sum(), np.finfo(float).tiny)
    if not (fractions.sum(axis=1) > 0).all():
        return 1.0, 0.0

    def log_loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        x = line[0] * LOGITS + line[1]
        value = fractions[0] @ np.logaddexp(0, -x) + fractions[1] @ np.logaddexp(0, x)
        excess = fractions.sum(axis=0) / (1 + np.exp(-x)) - fractions[0]
        deviation = line - (1.0, 0.0)
        return float(value + RIDGE * deviation @ deviation), np.array(
            [excess @ LOGITS, excess.sum()]
        ) + 2 * RIDGE * deviation

    slope, shift = minimize(log_loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return (float(slope), float(shift)) if slope > 0 else (1.0, 0.0)


def probability_counts(counts: NDArray[np.float64], slope: float, shift: float) -> EventCounts:
    """Return counts by probability from those by logit, for slope and shift of the logits."""
    probability = 1 / (1 + np.exp(-(slope * LOGITS + shift)))
    return EventCounts.of(probability, 1.0, counts[0]) + EventCounts.of(probability, 0.0, counts[1])


@dataclass(frozen=True, eq=False)
class Fractions:
    """Running sums of squared differences of event fractions in windows."""

    # (n_thresholds, n_scales): sums of ``(p - o)^2`` and of ``p^2 + o^2`` over cells and members, with p and o the
    # fractions of window cells at or above the threshold.
    error: Floats = field(default_factory=lambda: np.empty((0, 0)))
    largest_error: Floats = field(default_factory=lambda: np.empty((0, 0)))

    @classmethod
    def of(
        cls, members: Floats, target: Floats, weight: Floats, thresholds: tuple[float, ...], scales: tuple[int, ...]
    ) -> Fractions:
        """Return the sums over members (n_members, n_maps, n_y, n_x), targets and weights (n_maps, n_y, n_x).

        Parameters
        ----------
        thresholds : tuple of float
            Least values of an event, in units of the field.
        scales : tuple of int
            Odd widths of the windows in cells; missing cells in a window are ignored.

        Raises
        ------
        OptionError
            If a scale is not odd and positive.
        """
        check_scales(scales)
        error, largest_error = np.zeros((2, len(thresholds), len(scales)))
        valid = weight > 0
        for j, side in enumerate(scales):
            count = _window(valid.astype(np.float64), side)
            inverse_count = np.divide(1.0, count, out=np.zeros_like(count), where=count > 0)
            for i, threshold in enumerate(thresholds):
                true_fraction = _window((target >= threshold) & valid, side) * inverse_count
                for member in members:
                    forecast_fraction = _window((member >= threshold) & valid, side) * inverse_count
                    error[i, j] += float((weight * (forecast_fraction - true_fraction) ** 2).sum()) / len(members)
                    squares = forecast_fraction**2 + true_fraction**2
                    largest_error[i, j] += float((weight * squares).sum()) / len(members)
        return cls(error, largest_error)

    def merge(self, other: Fractions) -> Fractions:
        """Return the sums of both together."""
        if not self.error.size or not other.error.size:
            return other if not self.error.size else self
        if self.error.shape != other.error.shape:
            raise ShapeError(f"expected fractions of one shape, received {self.error.shape} and {other.error.shape}")
        return Fractions(self.error + other.error, self.largest_error + other.largest_error)

    @property
    def score(self) -> Floats:
        """The score, shape (n_thresholds, n_scales): 1 is perfect, 0 no overlap, NaN without events.

        References
        ----------
        Roberts, N. M. and Lean, H. W. (2008), Scale-selective verification of rainfall accumulations from
        high-resolution forecasts of convective events, Monthly Weather Review 136, 78-97.

        Examples
        --------
        >>> field, weight = np.eye(4)[None], np.ones((1, 4, 4))
        >>> Fractions.of(field[None], field, weight, (0.5,), (1, 3)).score.tolist()
        [[1.0, 1.0]]
        """
        has_events = self.largest_error > 0
        return np.where(has_events, 1 - self.error / np.where(has_events, self.largest_error, 1.0), np.nan)


def check_scales(scales: tuple[int, ...]) -> None:
    """Raise an OptionError for windows without a central cell."""
    for side in scales:
        if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 1 or side % 2 == 0:
            raise OptionError(f"expected scales as odd numbers of cells from 1 on, received {side!r}; such as 1, 5, 17")


def _window(field: NDArray[np.generic], side: int) -> Floats:
    """Return sums over windows; cells beyond the edge count as zero."""
    sums, half = np.asarray(field, np.float64), side // 2
    for axis in (-2, -1):
        size = sums.shape[axis]
        total = np.cumsum(sums, axis=axis)
        total = np.concatenate([np.zeros_like(np.take(total, [0], axis)), total], axis=axis)
        cell = np.arange(size)
        sums = np.take(total, np.minimum(cell + half + 1, size), axis) - np.take(
            total, np.maximum(cell - half, 0), axis
        )
    return sums
