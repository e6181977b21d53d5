"""Noise with a place in the world: windows agree, members and moments differ, moments follow the lifetime."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import OptionError
from downscale.fields.noise import Draws, Noise, Window, lifetime_of, moment_weights
from downscale.kernels.normal import fill_normal

WHOLE = Window(-70, 150), Window(0, 200)
GOLDEN = [
    [0.7345536574255312, -0.1924494939842175, -2.463156257177255, 0.03547390844904532],
    [-0.7827667178229281, 0.410046853888719, 1.6248490815203243, 0.1298423643917189],
]


@given(st.integers(-70, 149), st.integers(1, 90), st.integers(0, 199), st.integers(1, 90))
def test_a_window_is_a_part_of_the_world(row: int, rows: int, column: int, columns: int) -> None:
    y, x = Window(row, min(row + rows, 150)), Window(column, min(column + columns, 200))
    noise = Noise(Draws(seed=3))
    part = noise.white(1, 2, 3, *WHOLE)[y.first + 70 : y.last + 70, x.first : x.last]
    assert np.array_equal(noise.white(1, 2, 3, y, x), part)


@given(st.integers(-40, 40), st.integers(1, 40))
def test_a_circle_closes(first: int, count: int) -> None:
    noise, rows = Noise(Draws()), Window(0, 3)
    once = noise.white(0, 0, 0, rows, Window(0, 24, 24))
    turned = noise.white(0, 0, 0, rows, Window(first, first + count, 24))
    assert np.array_equal(turned, once[:, np.arange(first, first + count) % 24])


def test_numbers_are_independent_normal_ones() -> None:
    made = [
        Noise(Draws(seed=seed, stream=stream)).white(member, octave, moment, *WHOLE).ravel()
        for seed, stream, member, octave, moment in (
            (0, "pr", 0, 0, 0), (1, "pr", 0, 0, 0), (0, "tas", 0, 0, 0), (0, "pr", 1, 0, 0), (0, "pr", 0, 1, 0),
            (0, "pr", 0, 0, 1), (0, "pr", 0, 0, -1),
        )
    ]  # fmt: skip
    error = 4 / np.sqrt(made[0].size)
    for values in made:
        assert abs(values.mean()) < error
        assert abs(values.std() - 1) < error
        assert abs((values**3).mean()) < 4 * error
    assert np.abs(np.corrcoef(made) - np.eye(len(made))).max() < error
    map_ = made[0].reshape(220, 200)
    assert abs((map_[1:] * map_[:-1]).mean()) < error
    assert abs((map_[:, 1:] * map_[:, :-1]).mean()) < error


SAMPLE = Noise(Draws(seed=11)).white(2, 1, 7, Window(0, 1000), Window(0, 1000))


@pytest.mark.parametrize(("power", "moment"), [(1, 0), (2, 1), (3, 0), (4, 3), (5, 0), (6, 15), (8, 105)])
def test_moments_are_those_of_the_normal_distribution(power: int, moment: int) -> None:
    """A million numbers; the bound is five standard errors of each moment."""
    variance = math.prod(range(1, 2 * power, 2)) - moment**2
    assert abs((SAMPLE**power).mean() - moment) < 5 * math.sqrt(variance / SAMPLE.size)


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0, 3.0, 3.5, 4.0])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_tails_are_those_of_the_normal_distribution(threshold: float, side: float) -> None:
    """Counts of rare values are Poisson ones: the bound is five of their standard deviations."""
    expected = SAMPLE.size * 0.5 * math.erfc(threshold / math.sqrt(2))
    found = int((side * SAMPLE > threshold).sum())
    assert abs(found - expected) < 5 * math.sqrt(expected) + 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("lag", [1, 2, 31, 32, 63, 64, 65])
@pytest.mark.parametrize("of", [lambda z: z, lambda z: z * z - 1, np.sign, lambda z: np.abs(z) > 2.5], ids="zqse")
def test_neighbours_are_independent(axis: int, lag: int, of: Callable[[Any], Any]) -> None:
    """Also their squares, signs and extremes, and across the edges of tiles and of words of bits."""
    values = of(SAMPLE).astype(float)
    values = np.moveaxis((values - values.mean()) / values.std(), axis, 0)
    assert abs((values[lag:] * values[:-lag]).mean()) < 5 / math.sqrt(values[lag:].size)


def test_numbers_are_the_same_for_ever() -> None:
    """Members of an ensemble that was published can be made again."""
    found = Noise(Draws(seed=5, stream="pr")).white(1, 2, -3, Window(-70, -68), Window(62, 66))
    np.testing.assert_allclose(found, GOLDEN, rtol=1e-14)


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_the_inverse_of_the_distribution(word: int) -> None:
    made = np.empty(2)
    fill_normal(np.array([word], np.uint64), made)
    for bits, number in zip((word & 0xFFFFFFFF, word >> 32), made, strict=True):
        expected = NormalDist().inv_cdf((bits + 0.5) / 2**32)
        assert abs(number - expected) < 1e-8


@pytest.mark.parametrize(("lag", "smoother"), [(0.0, 0.0), (0.25, 0.1), (0.5, 0.1), (1.0, 0.0), (2.0, 0.0), (5.0, 0.0)])
def test_moments_follow_the_lifetime(lag: float, smoother: float) -> None:
    life, found = 600.0, []
    for start in range(-1200, 1200, 50):
        pair = [moment_weights(time, life) for time in (start, start + int(lag * life))]
        (a, first), (b, second) = pair
        table = {b - age: weight for age, weight in enumerate(second)}
        found.append(sum(weight * table.get(a - age, 0.0) for age, weight in enumerate(first)))
    assert -0.06 < np.mean(found) - np.exp(-lag) < smoother + 0.06
    draws = Draws(times=np.array([150, 150 + int(lag * life)]))
    one, other = (Noise(draws).at(i, 0, life, Window(0, 160), Window(0, 160)) for i in (0, 1))
    expected = sum(
        weight * dict(zip(range(moment, moment - 4, -1), later, strict=True)).get(first - age, 0.0)
        for (first, now), (moment, later) in [[moment_weights(int(time), life) for time in draws.times]]
        for age, weight in enumerate(now)
    )
    assert abs((one * other).mean() - expected) < 0.03


def test_moments_change_without_a_jump() -> None:
    for time in (600 * 7 - 1, 600 * 7):
        (a, now), (b, later) = moment_weights(time, 600.0), moment_weights(time + 1, 600.0)
        weights = {a - age: weight for age, weight in enumerate(now)}
        others = {b - age: weight for age, weight in enumerate(later)}
        for moment in weights.keys() | others.keys():
            assert abs(weights.get(moment, 0.0) - others.get(moment, 0.0)) < 0.01


def test_larger_structures_live_longer() -> None:
    lives = [lifetime_of(width) for width in (1.0, 1e3, 1e4, 1e6)]
    assert lives == sorted(lives)
    assert lives[0] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"seed": -1}, "expected seed"), ({"seed": 1.5}, "expected seed"), ({"members": 0}, "expected members"),
     ({"members": True}, "expected members")],
)  # fmt: skip
def test_what_is_no_number_of_members_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Draws(**settings)
