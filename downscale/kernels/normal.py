"""Compiled normal random numbers from random bits, by the inverse of the normal distribution.

Sums and products are in a fixed order without library functions: the bits are the same on every machine.

References
----------
Acklam, P. J. (2003), An algorithm for computing the inverse normal cumulative distribution function: rational
approximations with a relative error below 1.2e-9.
"""

from __future__ import annotations

import math

import numpy as np

from downscale.kernels.compiled import compile_loop

# Probabilities below which the second approximation is valid.
TAIL = 0.02425
LN2 = 0.6931471805599453
HALF, LOW_BITS = np.uint64(32), np.uint64(0xFFFFFFFF)


def _compile_exactly(function):  # type: ignore[no-untyped-def]
    return compile_loop(function, fused=False)


@_compile_exactly
def _logarithm(x):  # type: ignore[no-untyped-def]
    """Return the natural logarithm by its series about one."""
    part, power = math.frexp(x)
    if part < 0.7071067811865476:
        part, power = 2 * part, power - 1
    s = (part - 1) / (part + 1)
    z = s * s
    series = 1 / 9 + z * (1 / 11 + z * (1 / 13 + z / 15))
    return power * LN2 + 2 * s * (1 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * series))))


@_compile_exactly
def _tail(probability):  # type: ignore[no-untyped-def]
    """Return the normal quantile of a small probability."""
    q = math.sqrt(-2 * _logarithm(probability))
    above = -7.784894002430293e-03 * q - 3.223964580411365e-01
    above = ((above * q - 2.400758277161838) * q - 2.549732539343734) * q + 4.374664141464968
    below = (7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996
    return (above * q + 2.938163982698783) / ((below * q + 3.754408661907416) * q + 1)


@_compile_exactly
def _middle(q):  # type: ignore[no-untyped-def]
    """Return the normal quantile of a probability ``0.5 + q``."""
    r = q * q
    above = (-3.969683028665376e01 * r + 2.209460984245205e02) * r - 2.759285104469687e02
    above = ((above * r + 1.383577518672690e02) * r - 3.066479806614716e01) * r + 2.506628277459239
    below = (-5.447609879822406e01 * r + 1.615858368580409e02) * r - 1.556989798598866e02
    return above * q / (((below * r + 6.680131188771972e01) * r - 1.328068155288572e01) * r + 1)


@_compile_exactly
def fill_normal(words, numbers):  # type: ignore[no-untyped-def]
    """Write two normal numbers for each word of 64 random bits, that of its lower half first.

    None is beyond 6.4: there are 2**32 of them, one for each equal fraction of the distribution.
    """
    for i in range(words.size):
        for half in range(2):
            bits = words[i] >> HALF if half else words[i] & LOW_BITS
            q = (np.float64(np.int64(bits) - 2147483648) + 0.5) * 2.0**-32
            probability = 0.5 - abs(q)
            if probability >= TAIL:
                numbers[2 * i + half] = _middle(q)
            else:
                numbers[2 * i + half] = math.copysign(_tail(probability), q)
