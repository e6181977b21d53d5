"""Losses of masks of rare events: cross-entropy, Dice, Tversky and its focal form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from downscale.errors import OptionError
from downscale.losses.counted import counted, weighted_mean
from downscale.losses.tversky import soft_tversky

if TYPE_CHECKING:
    from torch import Tensor

EVENT_LOSSES = ("tversky", "dice", "bce")


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
        made, true, share = counted(logit, event, weight)
        each = torch.nn.functional.binary_cross_entropy_with_logits(made, true, reduction="none")
        return weighted_mean(each, share)
    if name == "dice":
        alpha, beta, gamma = 0.5, 0.5, 1.0
    # The threshold is between 0 and 1 for the event, and at zero for the logits.
    loss = soft_tversky(logit + 0.5, event, weight, thresholds=[0.5], width=1.0, alpha=alpha, beta=beta)
    return loss if gamma == 1 else loss.clamp_min(1e-8) ** (1 / gamma)
