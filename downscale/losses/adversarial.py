"""Losses of critic and generator, and the cap on slopes (torch; know no network but as a function)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from downscale.errors import OptionError, listing
from downscale.fields.gradient import Spacing, sobel
from downscale.losses.counted import check_positive

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("hinge", "wgan-gp")


def critic_loss(real: Tensor, made: Tensor, kind: str = "hinge") -> Tensor:
    """Return what the critic makes small: real scores high, made ones low; without units.

    Raises
    ------
    OptionError
        If the kind is unknown.

    References
    ----------
    Lim, J. H. and Ye, J. C. (2017), Geometric GAN, arXiv:1705.02894 (hinge). Arjovsky, M., Chintala, S. and Bottou, L.
    (2017), Wasserstein generative adversarial networks, Proceedings of Machine Learning Research 70, 214-223.

    Examples
    --------
    >>> float(critic_loss(torch.tensor([2.0]), torch.tensor([-2.0])))
    0.0
    """
    _check(kind)
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + made).mean()
    return made.mean() - real.mean()


def generator_loss(made: Tensor) -> Tensor:
    """Return what the generator makes small: minus the mean score, the same for both kinds."""
    return -made.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, made: Tensor, share: Tensor) -> Tensor:
    """Return the mean squared distance from one of the critic's gradient between real and made maps.

    Parameters
    ----------
    critic : callable
        Scores of maps.
    real, made : Tensor, shape (B, 1, Y, X)
        Maps.
    share : Tensor, shape (B, 1, 1, 1)
        Where between them, drawn evenly from 0 to 1.

    References
    ----------
    Gulrajani, I., Ahmed, F., Arjovsky, M., Dumoulin, V. and Courville, A. (2017), Improved training of Wasserstein
    GANs, arXiv:1704.00028.
    """
    between = (share * real + (1 - share) * made).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def slope_cap(heights: Tensor, spacing: Spacing, cap: float) -> Tensor:
    """Return the mean square of what slopes exceed the cap by, in units of the cap: P with gamma = 0 and g0 = cap.

    Parameters
    ----------
    heights : Tensor, shape (..., Y, X)
        In metres.
    spacing : Spacing
        Distances in metres.
    cap : float
        Largest slope, metres a metre.

    Raises
    ------
    OptionError
        If the cap is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> one = Spacing(np.full(4, 2.0), np.full((4, 4), 2.0), np.ones((4, 4)), False)
    >>> float(slope_cap(torch.arange(4.0).expand(4, 4), one, 0.5))
    1.0
    """
    check_positive("slope cap", cap)
    east, north = sobel(heights / cap, spacing)
    # What is far below the cap costs nothing, and the root of zero has no gradient.
    size = torch.sqrt((east**2 + north**2).clamp_min(0.25))
    return (F.relu(size - 1) ** 2).mean()


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise OptionError(f"expected an adversarial loss among {listing(KINDS)}, received {kind!r}")
