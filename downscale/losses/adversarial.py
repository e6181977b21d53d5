"""Adversarial losses of critic and generator, and a penalty on slopes above a cap."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from downscale.errors import OptionError, listing
from downscale.fields.gradient import Spacing, sobel
from downscale.losses.pointwise import check_positive

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("hinge", "wgan-gp")


def critic_loss(real: Tensor, fake: Tensor, kind: str = "hinge") -> Tensor:
    """Return the loss of the critic: low for high real scores and low generated ones; dimensionless.

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
    if kind not in KINDS:
        raise OptionError(f"expected an adversarial loss among {listing(KINDS)}, received {kind!r}")
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fake.mean() - real.mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Return the loss of the generator: minus the mean score, the same for both kinds."""
    return -fake.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, fraction: Tensor) -> Tensor:
    """Return the mean squared deviation from one of the critic's gradient norm between real and generated maps.

    Parameters
    ----------
    critic : callable
        Scores of maps.
    real, fake : Tensor, shape (B, 1, Y, X)
        Maps.
    fraction : Tensor, shape (B, 1, 1, 1)
        Position between them, uniform random from 0 to 1.

    References
    ----------
    Gulrajani, I., Ahmed, F., Arjovsky, M., Dumoulin, V. and Courville, A. (2017), Improved training of Wasserstein
    GANs, arXiv:1704.00028.
    """
    interpolated = (fraction * real + (1 - fraction) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(interpolated).sum(), interpolated, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def slope_cap(heights: Tensor, spacing: Spacing, cap: float) -> Tensor:
    """Return the mean squared excess of slopes over the cap, in units of the cap: P with gamma = 0 and g0 = cap.

    Parameters
    ----------
    heights : Tensor, shape (..., Y, X)
        In metres.
    spacing : Spacing
        Distances in metres.
    cap : float
        Largest slope, in m per m.

    Raises
    ------
    OptionError
        If the cap is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> spacing = Spacing(np.full(4, 2.0), np.full((4, 4), 2.0), np.ones((4, 4)), False)
    >>> float(slope_cap(torch.arange(4.0).expand(4, 4), spacing, 0.5))
    1.0
    """
    check_positive("slope cap", cap)
    east, north = sobel(heights / cap, spacing)
    # Slopes far below the cap cost nothing, and the root of zero has no gradient.
    size = torch.sqrt((east**2 + north**2).clamp_min(0.25))
    return (F.relu(size - 1) ** 2).mean()
