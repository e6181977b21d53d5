"""Kernel smoothing: the least of its objective among kernels that obey, laws to rounding, one Laplacian for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import OptionError, ShapeError
from downscale.kernels.laws import law_residual, law_system, project
from downscale.kernels.smooth import kernel_roughness, laplacian, smooth
from downscale.losses.spatial import kernel_smoothness

LAWS = st.sampled_from(["total", "phase", "cell", ("phase", "cell")])
STRENGTHS = st.floats(0, 50)


@given(LAWS, st.integers(1, 3), st.integers(2, 4), STRENGTHS, st.integers(0, 2**31))
def test_the_law_holds_whatever_the_strength(law, blocks, stride, strength, seed):
    w0 = np.random.default_rng(seed).normal(size=(2, (2 * blocks + 1) * stride, 3 * stride))
    assert law_residual(smooth(w0, strength, law, stride), law, stride) < 1e-10


@given(LAWS, STRENGTHS, st.booleans(), st.integers(0, 2**31))
def test_nothing_that_obeys_is_better(law, strength, within, seed):
    rng = np.random.default_rng(seed)
    w0 = rng.normal(size=(6, 6))
    w = smooth(w0, strength, law, 2, within_phases=within)
    form = laplacian((6, 6), (2, 2) if within else None)

    def objective(v):
        return ((v - w0) ** 2).sum() + strength * v.ravel() @ form @ v.ravel()

    constraints, _, inverse = law_system(law, (6, 6), 2)
    for _ in range(5):
        step = rng.normal(size=36)
        step = (step - inverse @ (constraints @ step)).reshape(6, 6)
        assert objective(w) <= objective(w + 1e-2 * step) + 1e-9


def test_without_strength_it_is_the_projection_on_the_law():
    w0 = np.random.default_rng(0).normal(size=(3, 4, 4))
    assert np.allclose(smooth(w0, 0.0, "phase", 2), project(w0, "phase", 2), rtol=0, atol=1e-12)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
def test_one_laplacian_for_smoothing_and_training(k_y, k_x, seed):
    w = np.random.default_rng(seed).normal(size=(k_y, k_x))
    form = float(w.ravel() @ laplacian((k_y, k_x)) @ w.ravel())
    assert kernel_roughness(w) == pytest.approx(form, abs=1e-9)
    assert float(kernel_smoothness([torch.from_numpy(w)])) == pytest.approx(form, abs=1e-9)


def test_smoothing_is_smoother_and_a_constant_stays():
    w0 = np.random.default_rng(1).normal(size=(4, 4))
    rough = [kernel_roughness(smooth(w0, strength, "phase", 2)) for strength in (0.0, 0.3, 3.0, 300.0)]
    assert rough == sorted(rough, reverse=True)
    assert np.allclose(smooth(np.full((4, 4), 0.25), 10.0, "phase", 2), 0.25)


def test_gains_of_each_kernel_are_kept_without_a_law_and_under_one():
    w0 = np.random.default_rng(2).normal(size=(3, 2, 5, 5)).astype(np.float32)
    free, bound = smooth(w0, 2.0, None, 2), smooth(w0, 2.0, "phase", 2, gain="kept")
    assert free.dtype == bound.dtype == np.float32
    for made in (free, bound):
        assert np.allclose(made.sum((-2, -1)), w0.sum((-2, -1)), atol=1e-5)
    phases = np.stack([bound[..., r::2, c::2].sum((-2, -1)) for r in (0, 1) for c in (0, 1)])
    assert np.allclose(phases, phases[0], atol=1e-5)


def test_within_phases_each_component_is_smoothed_by_itself():
    alone = np.kron(np.ones(5), np.array([1.0, 0.2]))  # rough, but each phase constant
    assert np.allclose(smooth(alone, 5.0, None, (2,), within_phases=True), alone)
    assert not np.allclose(smooth(alone, 5.0, None, (2,)), alone)


def test_bad_settings_are_refused():
    with pytest.raises(OptionError, match="smoothing strength from 0 on, received -1"):
        smooth(np.ones(4), -1, "phase", (2,))
    with pytest.raises(OptionError, match="gain to be 'one' or 'kept', received 'free'"):
        smooth(np.ones(4), 1, "phase", (2,), gain="free")
    with pytest.raises(ShapeError, match="kernel size >= stride"):
        smooth(np.ones(2), 1, "phase", (3,))
