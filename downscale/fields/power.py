"""Power transform for rain: the kernel acts on ``x^p``, and the result is raised to the power ``1 / p``.

Rain is non-negative, skewed and intermittent. Its powers are closer to Gaussian, for which linear kernels are optimal.
Cell means and bounds are imposed afterwards, as on any proposal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downscale.fields.aggregate import Array, namespace

# The exponent 1/n by the refinement of an axis (geometric mean of both): n for each largest refinement.
STEPS = ((math.sqrt(2) * 2, 2), (math.sqrt(2) * 4, 3), (math.inf, 4))
# Refinements below this change too little for a transform.
LEAST = math.sqrt(2)


@dataclass(frozen=True)
class Power:
    """The transform ``x -> x^p`` of non-negative values, with ``0 < p < 1``.

    Its bits depend on nothing but the value, whatever the shape of the array.

    Examples
    --------
    >>> power = Power(0.5)
    >>> power.forward(np.array([0.0, 4.0, np.nan])).tolist(), power.backward(np.array([-1.0, 2.0])).tolist()
    ([0.0, 2.0, nan], [0.0, 4.0])
    """

    exponent: float

    @property
    def inverse(self) -> float:
        """The power that reverses the transform; a whole number if it is one within rounding."""
        inverse = 1 / self.exponent
        return float(round(inverse)) if math.isclose(inverse, round(inverse), rel_tol=1e-9) else inverse

    def forward(self, coarse: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the transformed values; negative ones count as zero, NaN stays."""
        values = np.ascontiguousarray(coarse.clip(0))
        if self.inverse in (2, 4):
            root = np.sqrt(values)
            return root if self.inverse == 2 else np.sqrt(root)
        return np.cbrt(values) if self.inverse == 3 else values**self.exponent

    def backward(self, fine: Array) -> Array:
        """Return values of the original scale, of arrays or tensors; negative ones become zero, NaN stays."""
        values = fine.clip(0)
        if self.inverse in (2, 3, 4):
            square = values * values
            return square if self.inverse == 2 else square * values if self.inverse == 3 else square * square
        if namespace(values) is np or values.device.type != "cpu":
            return values**self.inverse
        # PyTorch rounds the last few values of an array in another way.
        return values.new_tensor(values.numpy() ** self.inverse)

    def __str__(self) -> str:
        whole = self.inverse.is_integer()
        return f"p = 1/{self.inverse:.0f}" if whole else f"p = {self.exponent:g}"


def power_for(refinement: tuple[float, float]) -> Power | None:
    """Return the transform for a refinement of rows and columns, or None if it is too small for one.

    Examples
    --------
    >>> [str(power_for((n, n))) for n in (1, 2, 4, 8)]
    ['None', 'p = 1/2', 'p = 1/3', 'p = 1/4']
    """
    mean = math.sqrt(refinement[0] * refinement[1])
    if mean < LEAST:
        return None
    return Power(1 / next(inverse for largest, inverse in STEPS if mean <= largest))
