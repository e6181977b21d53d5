"""Checkerboards: planted ones are found and significant, nature's fields have none, gaps and chunks do no harm."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downscale.errors import InputError, ShapeError
from downscale.kernels.coverage import Coverage
from downscale.metrics.checkerboard import LEAST_CELLS, checkerboard
from downscale.metrics.response import red_noise


def natural(cells: int = 96, count: int = 1, seed: int = 3) -> np.ndarray:
    return 280 + 5 * red_noise(cells, count=count, seed=seed)


def tiled(pattern: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.tile(pattern, [-(-n // f) for n, f in zip(shape, pattern.shape, strict=True)])[: shape[0], : shape[1]]


@settings(max_examples=8)
@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 999))
def test_a_planted_pattern_is_found_to_its_last_tap(rows, columns, seed):
    pattern = np.random.default_rng(seed).normal(size=(rows, columns))
    pattern -= pattern.mean()
    pattern /= pattern.std()
    clean = natural(96)
    found = checkerboard(clean + tiled(pattern, clean.shape[-2:]), (rows, columns))
    assert np.allclose(found.pattern, pattern, atol=0.15)
    assert found.p_value <= 0.002
    assert found.index > 10
    assert found.amplitude == pytest.approx(1, abs=0.1)


def test_nature_has_no_pattern():
    chances = [checkerboard(natural(seed=seed), factor).p_value for seed in range(15) for factor in (2, 3)]
    # Even chances: about one of a hundred below a hundredth, half below a half.
    assert sum(p < 0.01 for p in chances) <= 2
    assert 5 <= sum(p < 0.5 for p in chances) <= 25
    assert abs(checkerboard(natural(192, 4), 2).index) < 3


def test_the_index_grows_with_the_pattern_and_not_with_units():
    clean, ripple = natural(), tiled(np.array([[1.0, -1.0], [-1.0, 1.0]]), (96, 96))
    found = [checkerboard(clean + height * ripple, 2) for height in (0.03, 0.3, 3.0)]
    assert found[2].index - found[1].index == pytest.approx(20, abs=1)
    assert found[2].energy - found[1].energy == pytest.approx(20, abs=1.5)
    assert found[1].images[(1, 1)] > found[1].images[(0, 1)] + 15
    again = checkerboard((clean + 0.3 * ripple) * 1.8 - 459.67, 2)
    assert again.index == pytest.approx(found[1].index, abs=1e-6)
    assert again.energy == pytest.approx(found[1].energy, abs=1e-6)


def test_uneven_coverage_shows_in_the_field_and_even_coverage_does_not():
    coarse = torch.from_numpy(natural(48)).unsqueeze(1)
    found = {}
    for size in (4, 5):
        kernel = torch.full((1, 1, size, size), 4 / size**2, dtype=torch.float64)
        fine = torch.nn.functional.conv_transpose2d(coarse - 280, kernel, None, 2)[0, 0].numpy() + 280
        found[size] = checkerboard(fine[4:-4, 4:-4], 2)
        assert Coverage.of((size, size), 2).variation == (0 if size == 4 else 5)
    # Ripples with the anomaly itself, so of no fixed sign.
    assert found[5].energy > found[4].energy + 10
    assert found[5].index > found[4].index + 10
    assert found[5].p_value == 0.002


def test_gradients_are_no_pattern():
    y, x = np.meshgrid(np.arange(96.0), np.arange(96.0), indexing="ij")
    plain, steep = checkerboard(natural()[0], 4), checkerboard(natural()[0] + 3 * y - 2 * x, 4)
    assert np.allclose(steep.pattern, plain.pattern, rtol=0, atol=1e-9)
    assert steep.index == pytest.approx(plain.index, abs=0.1)


def test_gaps_hide_no_pattern_and_make_none():
    clean = natural()[0]
    rng = np.random.default_rng(5)
    gaps = (rng.random((96, 96)) < 0.02) | (np.hypot(*np.mgrid[-20:76, -50:46]) < 15)
    quiet = checkerboard(np.where(gaps, np.nan, clean), 2)
    assert quiet.p_value > 0.01
    ripple = tiled(np.array([[0.2, -0.2], [-0.2, 0.2]]), (96, 96))
    loud = checkerboard(np.where(gaps, np.nan, clean + ripple), 2)
    assert loud.p_value == 0.002
    assert np.allclose(loud.pattern, [[0.2, -0.2], [-0.2, 0.2]], atol=0.02)


@pytest.mark.parametrize("chunks", [(1, 96, 96), (2, 17, 96), (3, 40, 31)])
def test_dask_arrays_are_read_lazily_with_the_same_result(chunks):
    maps = natural(96, 3).astype(np.float32)
    whole, lazy = checkerboard(maps, 3), checkerboard(da.from_array(maps, chunks), 3)
    assert lazy.maps == 3
    assert lazy.index == pytest.approx(whole.index, abs=1e-6)
    assert lazy.spread == pytest.approx(whole.spread, rel=1e-9)
    assert lazy.p_value == whole.p_value


def test_a_constant_field_has_none():
    found = checkerboard(np.full((60, 60), 300.0), 2)
    assert (found.p_value, found.amplitude) == (1.0, 0.0)
    assert np.isnan(found.energy)


@pytest.mark.parametrize(
    ("field", "factor", "kind", "words"),
    [
        (np.zeros((60, 60)), 1, ShapeError, "factor of at least 2 along some axis, received 1 x 1"),
        (np.zeros((60, 40)), 4, ShapeError, f"at least {4 * LEAST_CELLS} x {4 * LEAST_CELLS} cells for factor 4 x 4"),
        (np.full((60, 60), np.nan), 2, InputError, "values with neighbours on all sides, received none"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(field, factor, kind, words):
    with pytest.raises(kind, match=words):
        checkerboard(field, factor)
