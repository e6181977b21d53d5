"""Losses of ensembles, quantiles and events: CRPS, pinball, Tversky, cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import like
from downscale.losses.pointwise import check_positive, mask_invalid, weighted_mean
from downscale.metrics.ensemble import crps

if TYPE_CHECKING:
    from torch import Tensor

EVENT_LOSSES = ("tversky", "dice", "bce")


def fair_crps(prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, members: int = 0) -> Tensor:
    """Return ``mean |x_i - y| - 1 / (2 M (M - 1)) sum_ij |x_i - x_j|`` by area; units of the field.

    The expectation of the fair score is the CRPS of the distribution of the members, for any number M of members.
    Training with it therefore does not favour narrow ensembles. It may be negative for a single target.

    Parameters
    ----------
    prediction : tensor
        Ensemble members along dimension ``members``, else the shape of the target.
    target, weight : tensors
        As for ``mse``, without that dimension.
    members : int
        Ensemble dimension of ``prediction``.

    Raises
    ------
    ShapeError
        If there are fewer than two members.

    References
    ----------
    Ferro, C. A. T. (2014), Fair scores for ensemble forecasts, Quarterly Journal of the Royal Meteorological Society
    140, 1917-1923.

    Examples
    --------
    >>> import torch
    >>> float(fair_crps(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0])))
    0.0
    """
    count = prediction.shape[members] if prediction.ndim else 0
    if count < 2:
        raise ShapeError(
            f"expected at least two members along dimension {members} for a fair CRPS, received shape "
            f"{tuple(prediction.shape)}; generate more, or use the standard CRPS"
        )
    return _mean_crps(prediction, target, weight, members, fair=True)


def standard_crps(prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, members: int = 0) -> Tensor:
    """Return ``mean |x_i - y| - 1 / (2 M**2) sum_ij |x_i - x_j|`` by area; units of the field.

    The CRPS of the empirical distribution of the members: never negative, zero if and only if all members equal the
    target, and the absolute error of a single member. It exceeds the fair score by
    ``sum_ij |x_i - x_j| / (2 M**2 (M - 1))`` and so favours narrow ensembles.

    Parameters as for ``fair_crps``.

    Raises
    ------
    ShapeError
        If there is no member.

    References
    ----------
    Gneiting, T. and Raftery, A. E. (2007), Strictly proper scoring rules, prediction, and estimation, Journal of the
    American Statistical Association 102, 359-378.
    """
    count = prediction.shape[members] if prediction.ndim else 0
    if count < 1:
        raise ShapeError(
            f"expected members along dimension {members} for a CRPS, received shape {tuple(prediction.shape)}"
        )
    return _mean_crps(prediction, target, weight, members, fair=False)


def _mean_crps(prediction: Tensor, target: Tensor, weight: Tensor | None, members: int, fair: bool) -> Tensor:
    predictions, truth, weights = mask_invalid(prediction.movedim(members, 0), target, weight)
    return weighted_mean(crps(predictions, truth, fair), weights[0])


def pinball(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, levels: Sequence[float], dimension: int = 0
) -> Tensor:
    """Return the area-weighted pinball loss, the mean over ``levels``, in units of the field.

    The q-quantile of the conditional distribution minimises it at level q; for q = 0.5 it is half the absolute error.
    It is proper for a network that predicts quantiles. It is *unfair* for order statistics of an ensemble of M members:
    it then favours narrow ensembles, by a fraction of order 1/M. Use ``fair_crps`` for members.

    Parameters
    ----------
    prediction : tensor
        Quantiles along ``dimension``, else the shape of the target.
    target, weight : tensors
        As for ``mse``, without that dimension.
    levels : sequence of float
        Probabilities, in the order of the predictions.
    dimension : int
        Dimension of the levels in ``prediction``.

    Raises
    ------
    OptionError
        If there is no level, or one is not between 0 and 1.
    ShapeError
        If the number of predictions differs from that of the levels.

    References
    ----------
    Koenker, R. and Bassett, G. (1978), Regression quantiles, Econometrica 46, 33-50.
    """
    count = check_levels(levels).size
    return _mean_pinball(prediction, target, weight, levels, dimension, np.full(count, 1 / count))


def crps_of_quantiles(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, levels: Sequence[float], dimension: int = 0
) -> Tensor:
    """Return the CRPS of predicted quantiles, twice the pinball loss integrated over levels, in units of the field.

    Each level represents the probabilities nearest to it. Invariant: sorted ensemble members at levels
    ``(i - 1/2) / M`` give exactly the *standard* CRPS of the ensemble, so that for members the score is not fair.

    Parameters and errors as for ``pinball``; levels must also increase.

    References
    ----------
    Laio, F. and Tamea, S. (2007), Verification tools for probabilistic forecasts of continuous hydrological variables,
    Hydrology and Earth System Sciences 11, 1267-1277.
    """
    probabilities = check_levels(levels, increasing=True)
    edges = np.concatenate([[0.0], (probabilities[1:] + probabilities[:-1]) / 2, [1.0]])
    return 2 * _mean_pinball(prediction, target, weight, levels, dimension, np.diff(edges))


def _mean_pinball(
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None,
    levels: Sequence[float],
    dimension: int,
    parts: np.ndarray,
) -> Tensor:
    probabilities = check_levels(levels)
    if prediction.ndim == 0 or prediction.shape[dimension] != probabilities.size:
        raise ShapeError(
            f"expected {probabilities.size} quantiles, one per level, along dimension {dimension} of the prediction, "
            f"received shape {tuple(prediction.shape)}"
        )
    predictions, truth, weights = mask_invalid(prediction.movedim(dimension, 0), target, weight)
    shape = (-1, *(1,) * (predictions.ndim - 1))
    level, part = like(probabilities, predictions).reshape(shape), like(parts, predictions).reshape(shape)
    residual = truth - predictions
    loss = (part * ((level - 0.5) * residual + 0.5 * residual.abs())).sum(0)
    return weighted_mean(loss, weights[0])


def check_levels(levels: Sequence[float], increasing: bool = False) -> np.ndarray:
    """Return the levels as an array, or raise an OptionError if they are not between 0 and 1 or do not increase."""
    probabilities = np.asarray(levels, dtype=np.float64)
    if probabilities.ndim != 1 or probabilities.size == 0 or not ((probabilities > 0) & (probabilities < 1)).all():
        raise OptionError(f"expected quantile levels between 0 and 1, received {levels!r}; such as [0.1, 0.5, 0.9]")
    if increasing and (np.diff(probabilities) <= 0).any():
        raise OptionError(f"expected increasing quantile levels for the CRPS, received {list(levels)}; sort them")
    return probabilities


def soft_tversky(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, *, thresholds: Sequence[float], width: float,
    alpha: float = 0.3, beta: float = 0.7, smooth: float = 1e-6,
) -> Tensor:  # fmt: skip
    """Return one minus the Tversky index of the areas above each threshold, the mean over thresholds; 0 to 1.

    The event of the target is ``y >= threshold``; that of the prediction has the probability
    ``sigmoid((prediction - threshold) / width)``. The index is ``both / (both + alpha false + beta missed)`` of areas
    summed over all maps, so that common non-events do not count. With alpha = beta = 1/2 it is the Dice index, with
    alpha = beta = 1 the Jaccard index.

    Parameters
    ----------
    prediction, target, weight : tensors
        As for ``mse``.
    thresholds : sequence of float
        In units of the field.
    width : float
        Range of the prediction between non-event and event, in units of the field; the derivative vanishes some ten
        widths away.
    alpha, beta : float
        Costs of false alarms and of missed events; beta > alpha favours hits.
    smooth : float
        Fraction of the total area added to numerator and denominator, so that fields without events agree.

    Raises
    ------
    OptionError
        If there is no threshold, ``width`` or ``smooth`` is not positive, or ``alpha`` or ``beta`` is negative.

    References
    ----------
    Tversky, A. (1977), Features of similarity, Psychological Review 84, 327-352. Salehi, S. S. M., Erdogmus, D. and
    Gholipour, A. (2017), Tversky loss function for image segmentation using 3D fully convolutional deep networks,
    Machine Learning in Medical Imaging (MICCAI), 379-387.
    """
    check_tversky(thresholds, width, alpha, beta, smooth)
    predictions, truth, weights = mask_invalid(prediction, target, weight)
    top = weights.amax().detach()
    weights = weights / torch.where(top > 0, top, torch.ones_like(top))
    total = weights.sum()
    # Without any valid area the index is one instead of zero over zero.
    offset = smooth * torch.where(total > 0, total, torch.ones_like(total))
    losses = []
    for threshold in thresholds:
        probability, event = (
            torch.sigmoid((predictions - threshold) / width),
            (truth >= threshold).to(predictions.dtype),
        )
        both = (weights * probability * event).sum()
        false = (weights * probability * (1 - event)).sum()
        missed = (weights * (1 - probability) * event).sum()
        losses.append((alpha * false + beta * missed) / (both + alpha * false + beta * missed + offset))
    return torch.stack(losses).mean()


def check_tversky(thresholds: Sequence[float], width: float, alpha: float, beta: float, smooth: float) -> None:
    """Raise an OptionError for settings that ``soft_tversky`` refuses."""
    if not len(thresholds):
        raise OptionError("expected at least one Tversky threshold in units of the field, received none")
    for name, value in (("width", width), ("smooth", smooth), ("alpha", alpha), ("beta", beta)):
        check_positive(f"Tversky {name}", value, zero=name in ("alpha", "beta"))


def event_loss(
    logit: Tensor, event: Tensor, weight: Tensor | None = None, *, name: str = "tversky", alpha: float = 0.3,
    beta: float = 0.7, gamma: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return the loss of logits relative to the mask of an event; 0 is perfect.

    Parameters
    ----------
    logit, event, weight : tensors, shapes that broadcast
        Logits of the event; 1 where it occurs, 0 where it does not, NaN where missing; areas.
    name : {"tversky", "dice", "bce"}
        Name of the loss: "dice" is "tversky" with ``alpha = beta = 1/2``, "bce" the mean cross-entropy.
    alpha, beta : float
        Costs of false alarms and of missed events in "tversky".
    gamma : float
        At least one; above one the loss is ``(1 - index) ** (1 / gamma)``, the focal form.

    Raises
    ------
    OptionError
        If the loss is unknown or gamma is below one.

    References
    ----------
    Abraham, N. and Khan, N. M. (2019), A novel focal Tversky loss function with improved attention U-Net for lesion
    segmentation, IEEE International Symposium on Biomedical Imaging.

    Examples
    --------
    >>> sure = torch.tensor([20.0, -20.0])
    >>> float(event_loss(sure, torch.tensor([1.0, 0.0]), name="bce")) < 1e-6
    True
    """
    if name not in EVENT_LOSSES:
        raise OptionError(f"expected an event loss among {', '.join(EVENT_LOSSES)}, received {name!r}")
    if not gamma >= 1:
        raise OptionError(f"expected gamma from 1 on, received {gamma!r}")
    if name == "bce":
        logits, truth, weights = mask_invalid(logit, event, weight)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return weighted_mean(losses, weights)
    if name == "dice":
        alpha, beta, gamma = 0.5, 0.5, 1.0
    # The threshold is between 0 and 1 for the event, and at zero for the logits.
    loss = soft_tversky(logit + 0.5, event, weight, thresholds=[0.5], width=1.0, alpha=alpha, beta=beta)
    return loss if gamma == 1 else loss.clamp_min(1e-8) ** (1 / gamma)
