"""Soft Tversky index of rare events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from downscale.errors import OptionError
from downscale.losses.counted import counted

if TYPE_CHECKING:
    from torch import Tensor


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
    made, true, share = counted(prediction, target, weight)
    top = share.amax().detach()
    share = share / torch.where(top > 0, top, torch.ones_like(top))
    whole = share.sum()
    # Without any valid area the index is one instead of zero over zero.
    least = smooth * torch.where(whole > 0, whole, torch.ones_like(whole))
    losses = []
    for threshold in thresholds:
        chance, event = torch.sigmoid((made - threshold) / width), (true >= threshold).to(made.dtype)
        both = (share * chance * event).sum()
        false = (share * chance * (1 - event)).sum()
        missed = (share * (1 - chance) * event).sum()
        losses.append((alpha * false + beta * missed) / (both + alpha * false + beta * missed + least))
    return torch.stack(losses).mean()


def check_tversky(thresholds: Sequence[float], width: float, alpha: float, beta: float, smooth: float) -> None:
    """Raise an OptionError for settings out of range.

    Raises
    ------
    OptionError
        As in ``soft_tversky``.
    """
    if not len(thresholds):
        raise OptionError("expected at least one Tversky threshold in units of the field, received none")
    for name, value, legal in (
        ("width", width, width > 0),
        ("smooth", smooth, smooth > 0),
        ("alpha", alpha, alpha >= 0),
        ("beta", beta, beta >= 0),
    ):
        if not legal:
            sign = "> 0" if name in ("width", "smooth") else ">= 0"
            raise OptionError(f"expected Tversky {name} {sign}, received {value!r}")
