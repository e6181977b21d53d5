"""Compiled cascade that divides the rain of days into shorter steps, with random numbers by address.

Random bits are those of the counter-based generator Philox-4x64-10, a function of seed, member, day and cell: any
division of a field gives the same bits. Sums are in float64 in a fixed order.

References
----------
Salmon, J. K., Moraes, M. A., Dror, R. O. and Shaw, D. E. (2011), Parallel random numbers: as easy as 1, 2, 3,
Proceedings of SC11, article 16.
"""

from __future__ import annotations

import math

import numpy as np

from downscale.kernels.compiled import compile_inner, compile_loop

ROUNDS = 10
MULTIPLIERS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], np.uint64)
INCREMENTS = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], np.uint64)
HALF, LOW_BITS, ONE = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1)
# Bits of one block.
WORDS = 4
TURN, ROOT_HALF = 2 * math.pi, math.sqrt(0.5)
SMALLEST = 1e-300
# Logits of probabilities are limited to this size.
LARGEST = 500.0
# Features of a split: constant, log of the hours of a child, log of the rain rate in mm/h, number of wet neighbours.
FEATURES = 4


@compile_inner
def _multiply_high(a, b):  # type: ignore[no-untyped-def]
    """Return the upper 64 bits of a product of 64-bit numbers."""
    a_high, a_low, b_high, b_low = a >> HALF, a & LOW_BITS, b >> HALF, b & LOW_BITS
    middle = a_high * b_low + (a_low * b_low >> HALF)
    other = a_low * b_high + (middle & LOW_BITS)
    return a_high * b_high + (middle >> HALF) + (other >> HALF)


@compile_inner
def _fill_block(key, address, block, words):  # type: ignore[no-untyped-def]
    """Write the four words of a block to ``words``; blocks are numbered from 1, as NumPy does."""
    a, b, c, d = np.uint64(block), address[0], address[1], address[2]
    k, m = key[0], key[1]
    for _ in range(ROUNDS):
        high_a, low_a = _multiply_high(MULTIPLIERS[0], a), MULTIPLIERS[0] * a
        high_c, low_c = _multiply_high(MULTIPLIERS[1], c), MULTIPLIERS[1] * c
        a, b, c, d = high_c ^ b ^ k, low_c, high_a ^ d ^ m, low_a
        k, m = k + INCREMENTS[0], m + INCREMENTS[1]
    words[0], words[1], words[2], words[3] = a, b, c, d


@compile_loop
def random_words(key, address, words):  # type: ignore[no-untyped-def]
    """Write the random words at an address, as ``numpy.random.Philox`` gives them for the counter ``(0, *address)``."""
    buffer = np.empty(WORDS, np.uint64)
    for n in range(words.size):
        if n % WORDS == 0:
            _fill_block(key, address, n // WORDS + 1, buffer)
        words[n] = buffer[n % WORDS]


@compile_inner
def _fill_node(key, address, is_shared, words, noise, node):  # type: ignore[no-untyped-def]
    """Write the noise of a node: two numbers per child, uniform, or normal if cells share nodes."""
    for n in range(noise.shape[1] // 2):
        if n % WORDS == 0:
            _fill_block(key, address, n // WORDS + 1, words)
        word = words[n % WORDS]
        first = (np.float64(word >> HALF) + 0.5) * 2.0**-32
        second = (np.float64(word & LOW_BITS) + 0.5) * 2.0**-32
        if is_shared:
            radius = math.sqrt(-2.0 * math.log(first))
            noise[node, 2 * n] = radius * math.cos(TURN * second)
            noise[node, 2 * n + 1] = radius * math.sin(TURN * second)
        else:
            noise[node, 2 * n], noise[node, 2 * n + 1] = first, second


@compile_inner
def _uniform(noise, n, corner, weight, i):  # type: ignore[no-untyped-def]
    """Return a uniform number at a cell from the noise of its nodes."""
    if corner.shape[1] == 1:
        return noise[corner[i, 0], n]
    total = 0.0
    for k in range(corner.shape[1]):
        total += weight[i, k] * noise[corner[i, k], n]
    return 0.5 * math.erfc(-total * ROOT_HALF)


@compile_inner
def _split(  # type: ignore[no-untyped-def]
    parts, count, b, rate, before, after, wet, spread, first_word, noise, corner, weight, cell, chances, children
):
    """Divide each of ``count`` parts of a day into ``b`` children; parts and children are fractions of the day.

    ``chances`` is space for the probabilities of the children of a part.
    """
    x = math.log(24.0 / (count * b))
    for q in range(count):
        part, left = parts[q], q * b
        if part == 0.0:
            for i in range(b):
                children[left + i] = 0.0
            continue
        # Rates in mm/h of the part, of the child before it and of the part after it.
        own = max(rate * count * part, SMALLEST)
        previous = rate * count * b * children[left - 1] if q else before
        following = rate * count * parts[q + 1] if q + 1 < count else after
        y, neighbours = math.log(own), np.float64((previous > 0) + (following > 0))
        roots = math.sqrt(following), math.sqrt(previous)
        slope = (roots[0] - roots[1]) / (roots[0] + roots[1] + math.sqrt(own))
        score = wet[0] + wet[1] * x + wet[2] * y + wet[3] * neighbours
        power = math.exp(min(spread[0] + spread[1] * x + spread[2] * y + spread[3] * neighbours, LARGEST))
        # From the last child on, its probability of rain and the probability that it or a later one is wet. Both keep
        # their relative precision down to those of the smallest scores.
        any_wet = 0.0
        for i in range(b - 1, -1, -1):
            position = (2.0 * i - (b - 1)) / (b - 1)
            probability = 1.0 / (1.0 + math.exp(-min(max(score + wet[4] * slope * position, -LARGEST), LARGEST)))
            any_wet = probability + (1.0 - probability) * any_wet
            chances[i], children[left + i] = probability, any_wet
        largest, has_rain = -np.inf, False
        for i in range(b):
            n, position = 2 * (first_word + left + i), (2.0 * i - (b - 1)) / (b - 1)
            # At least one child is wet.
            probability = chances[i] if has_rain else chances[i] / children[left + i]
            log_share = -np.inf
            if (i + 1 == b and not has_rain) or _uniform(noise, n, corner, weight, cell) < probability:
                has_rain = True
                exponential = -math.log(max(_uniform(noise, n + 1, corner, weight, cell), SMALLEST))
                log_share = power * math.log(max(exponential, SMALLEST)) + spread[4] * slope * position
                largest = max(largest, log_share)
            children[left + i] = log_share
        total = 0.0
        for i in range(b):
            share = math.exp(children[left + i] - largest)
            children[left + i] = share
            total += share
        for i in range(b):
            children[left + i] *= part / total


@compile_loop
def divide_rain(  # type: ignore[no-untyped-def]
    rates, before, after, branches, wet, spread, key, days, nodes, stream, corner, weight, out
):
    """Write the rain of each time step relative to the mean of its day.

    Parameters
    ----------
    rates, before, after : arrays, shape (days, cells)
        Daily means, and those of the days before and after, zero if unknown; in mm/h. Days that are not positive get 1
        in all steps.
    branches : array of int, shape (levels,)
        Number of children per part, from the whole day on; their product is the number of steps.
    wet, spread : arrays, shape (FEATURES + 1,)
        Coefficients of the logit of the probability that a child is wet, and of the log of the exponent of weights: of
        the features, then of the change of the root of the rate from before the part to after it.
    key : array of uint64, shape (2,)
        Seed and member.
    days, nodes : arrays of uint64, shapes (days,) and (nodes,)
        Addresses of the noise.
    stream : uint64
    corner, weight : arrays of int and float64, shape (cells, corners)
        The nodes of each cell, and their weights, whose squares add up to one; a single one for independent cells.
    out : array, shape (days, steps, cells)
    """
    steps, total, count = out.shape[1], 0, 1
    for b in branches:
        count *= b
        total += count
    noise, filled = np.empty((nodes.size, 2 * total)), np.full(nodes.size, -1)
    parts, children, chances = np.empty(steps), np.empty(steps), np.empty(steps)
    words, address = np.empty(WORDS, np.uint64), np.empty(3, np.uint64)
    for d in range(out.shape[0]):
        for i in range(out.shape[2]):
            rate = np.float64(rates[d, i])
            if not 0.0 < rate < np.inf:
                out[d, :, i] = 1.0
                continue
            for k in range(corner.shape[1]):
                node = corner[i, k]
                if filled[node] != d:
                    address[0], address[1], address[2], filled[node] = nodes[node], days[d], stream, d
                    _fill_node(key, address, corner.shape[1] > 1, words, noise, node)
            parts[0], count, first_word = 1.0, 1, 0
            for b in branches:
                _split(
                    parts, count, b, rate, max(np.float64(before[d, i]), 0.0), max(np.float64(after[d, i]), 0.0), wet,
                    spread, first_word, noise, corner, weight, i, chances, children,
                )  # fmt: skip
                first_word += count * b
                count *= b
                parts, children = children, parts
            for s in range(steps):
                out[d, s, i] = steps * parts[s]
