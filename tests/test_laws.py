"""The sum-to-one laws: what their constraints mean, and what projecting on them does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from downscale.errors import OptionError, ShapeError
from downscale.kernels.laws import (
    LAWS,
    law_residual,
    law_system,
    obeys,
    project,
    same_padding,
)
from downscale.kernels.simplices import project_nonnegative, simplex_groups

COMBINATIONS = ["total", "phase", "cell", ("phase", "cell"), ("total", "phase", "cell")]


@st.composite
def axes(draw, longest=9):
    """One axis (k, s, p) with k >= s and the padding of n * s outputs, where each law can hold."""
    stride = draw(st.integers(1, 4))
    kernel = draw(st.integers(stride, longest))
    return kernel, stride, same_padding(kernel, stride)[0]


@st.composite
def planes(draw):
    """Geometry of a 2-D kernel: (kernel_size, stride, padding)."""
    return tuple(zip(draw(axes(6)), draw(axes(6)), strict=True))


def random_kernels(kernel_size, seed=0, batch=(2, 3)):
    return np.random.default_rng(seed).standard_normal((*batch, *kernel_size)) * 3


def random_nonnegative(law, geometry, seed, count=20):
    """Points of the set that do not come from the projection: Dirichlet draws on each simplex."""
    groups = simplex_groups(law, *geometry)
    rng = np.random.default_rng(seed)
    kernels = np.zeros((count, int(np.prod(geometry[0]))))
    for taps, present in zip(groups.taps, groups.present, strict=True):
        inside = taps[present]
        kernels[:, inside] = groups.total * rng.dirichlet(np.full(inside.size, 0.5), count)
    return kernels.reshape(count, *geometry[0])


def scattered(kernel, stride, coarse):
    """The whole field that the scatter form makes of a coarse one."""
    field = torch.from_numpy(coarse)[None, None]
    weight = torch.from_numpy(kernel)[None, None]
    return F.conv_transpose2d(field, weight, stride=stride)[0, 0].numpy()


@pytest.mark.parametrize(("kernel_size", "stride"), [(k, s) for k in range(1, 30) for s in range(1, 9)])
def test_same_padding_makes_n_times_stride(kernel_size, stride):
    padding, extra = same_padding(kernel_size, stride)
    for n in (1, 2, 5):
        assert (n - 1) * stride - 2 * padding + kernel_size + extra == n * stride
    assert padding >= 0
    assert 0 <= extra < max(stride, 2)


# What the constraints mean ------------------------------------------------------------------------


@given(planes(), st.integers(0, 99))
def test_total_keeps_the_sum_of_the_scattered_field(plane, seed):
    kernel_size, stride, padding = plane
    kernel = project(random_kernels(kernel_size, seed, ()), "total", stride, padding)
    coarse = np.random.default_rng(seed).standard_normal((4, 5))
    fine = scattered(kernel, stride, coarse)
    np.testing.assert_allclose(fine.sum(), np.prod(stride) * coarse.sum(), atol=1e-10)


@given(planes(), st.integers(0, 99))
def test_phase_keeps_constants(plane, seed):
    kernel_size, stride, padding = plane
    kernel = project(random_kernels(kernel_size, seed, ()), "phase", stride, padding)
    fine = scattered(kernel, stride, np.full((14, 14), 2.5))
    inside = tuple(slice(k, -k) for k in kernel_size)
    np.testing.assert_allclose(fine[inside], 2.5, atol=1e-10)
    assert fine[inside].size > 0


@given(planes(), st.integers(0, 99))
def test_cell_returns_block_means(plane, seed):
    kernel_size, stride, padding = plane
    kernel = project(random_kernels(kernel_size, seed, ()), "cell", stride, padding)
    coarse = np.random.default_rng(seed).standard_normal((5, 4))
    fine = scattered(kernel, stride, coarse)
    (sh, sw), (ph, pw) = stride, padding
    fine = np.pad(fine, ((0, sh), (0, sw)))[ph : ph + 5 * sh, pw : pw + 4 * sw]
    np.testing.assert_allclose(fine.reshape(5, sh, 4, sw).mean((1, 3)), coarse, atol=1e-10)


@pytest.mark.parametrize("padding", [0, 1, 2, 3, 4])
def test_cell_blocks_follow_the_padding(padding):
    rows, sums, _ = law_system("cell", 5, 2, padding)
    blocks = [set(np.flatnonzero(row)) for row in rows]
    central = blocks[int(np.flatnonzero(sums)[0])]
    assert central == {tap for tap in (padding, padding + 1) if tap < 5}
    assert sorted(tap for block in blocks for tap in block) == [0, 1, 2, 3, 4]
    assert sums.sum() == 2.0


@given(planes(), st.sampled_from(["phase", "cell"]), st.integers(0, 99))
def test_phase_and_cell_imply_total(plane, law, seed):
    kernel = project(random_kernels(plane[0], seed), law, *plane[1:])
    assert law_residual(kernel, "total", *plane[1:]) < 1e-10


def test_neither_phase_nor_cell_implies_the_other():
    kernel = random_kernels((6, 6))
    assert law_residual(project(kernel, "cell", 2), "phase", 2) > 0.1
    assert law_residual(project(kernel, "phase", 2), "cell", 2) > 0.1
    assert law_residual(project(kernel, "total", 2), "phase", 2) > 0.1


def test_constraints_are_float64_and_cannot_be_spoilt():
    rows, sums, _ = law_system(("phase", "cell"), (4, 6), (2, 3))
    assert rows.dtype == sums.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 7.0
    assert law_system("phase", 4, 2) is law_system(("phase",), (np.int64(4),), [2], 1)


# Projection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", COMBINATIONS)
@given(plane=planes(), seed=st.integers(0, 99))
def test_projection_obeys_is_idempotent_and_orthogonal(law, plane, seed):
    kernel = random_kernels(plane[0], seed)
    nearest = project(kernel, law, *plane[1:])
    other = project(random_kernels(plane[0], seed + 1), law, *plane[1:])
    assert obeys(nearest, law, *plane[1:], tolerance=1e-12)
    np.testing.assert_allclose(project(nearest, law, *plane[1:]), nearest, atol=1e-12)
    inner = ((kernel - nearest) * (other - nearest)).sum((-2, -1))
    np.testing.assert_allclose(inner, 0.0, atol=1e-10)


@pytest.mark.parametrize("law", COMBINATIONS)
@given(axis=axes(), seed=st.integers(0, 99))
def test_projection_along_one_axis(law, axis, seed):
    kernel = random_kernels(axis[:1], seed)
    nearest = project(kernel, law, axis[1:2], axis[2:])
    assert law_residual(nearest, law, axis[1:2], axis[2:]) < 1e-12
    np.testing.assert_allclose(nearest[0, 1], project(kernel[0, 1], law, *axis[1:]), atol=1e-12)


@pytest.mark.parametrize("law", COMBINATIONS)
def test_numpy_torch_batched_and_single_agree(law):
    kernel = random_kernels((5, 6))
    nearest = project(kernel, law, (2, 3))
    tensor = project(torch.from_numpy(kernel), law, (2, 3))
    np.testing.assert_allclose(tensor.numpy(), nearest, atol=1e-13)
    np.testing.assert_allclose(nearest[1, 2], project(kernel[1, 2], law, (2, 3)), atol=1e-13)


@pytest.mark.parametrize("law", COMBINATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_projection_keeps_the_type_and_obeys_to_its_rounding(law, dtype):
    kernel = torch.from_numpy(random_kernels((6, 6))).type(getattr(torch, dtype))
    nearest = project(kernel, law, 2)
    assert nearest.dtype == kernel.dtype
    assert obeys(nearest, law, 2)
    assert not obeys(kernel, law, 2)


def test_whole_number_kernels_are_projected_in_float64():
    assert project(np.ones(3, dtype=int), "total", 2).dtype == np.float64
    assert project(torch.ones(3, dtype=torch.int64), "total", 2).dtype == torch.float64
    assert obeys(torch.ones(4, dtype=torch.int64), "phase", 4)


@pytest.mark.parametrize("law", COMBINATIONS)
def test_projection_gradient(law):
    kernel = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: project(w, law, (2, 1)), kernel)


@pytest.mark.parametrize("law", COMBINATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_planted_leak_is_found(law, dtype):
    kernel = project(random_kernels((6, 6)), law, 2).astype(dtype)
    assert obeys(kernel, law, 2)
    kernel[1, 2, 3, 3] += 1e-3
    assert not obeys(kernel, law, 2)
    assert law_residual(kernel, law, 2) == pytest.approx(1e-3, rel=1e-2)


def test_not_a_number_obeys_nothing():
    assert not obeys(np.full(4, np.nan), "total", 2)


# Non-negative kernels -----------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["total", "phase", "cell", ("total", "cell"), ("total", "phase")])
@given(plane=planes(), seed=st.integers(0, 99))
def test_nonnegative_projection_is_the_nearest_point(law, plane, seed):
    kernel = random_kernels(plane[0], seed, (4,))
    nearest = project_nonnegative(kernel, law, *plane[1:])
    assert nearest.min() >= 0
    assert law_residual(nearest, law, *plane[1:]) < 1e-11
    np.testing.assert_allclose(project_nonnegative(nearest, law, *plane[1:]), nearest, atol=1e-11)
    others = random_nonnegative(law, plane, seed)
    assert law_residual(others, law, *plane[1:]) < 1e-11
    # Variational inequality of the projection on a convex set, against every other point.
    angle = ((kernel - nearest)[:, None] * (others - nearest[:, None])).sum((-2, -1))
    assert angle.max() <= 1e-9


@pytest.mark.parametrize("law", ["total", "phase", "cell"])
def test_nonnegative_projection_agrees_in_torch_and_has_its_gradient(law):
    kernel = random_kernels((5, 4))
    tensor = torch.from_numpy(kernel).requires_grad_()
    nearest = project_nonnegative(tensor, law, 2)
    np.testing.assert_allclose(nearest.detach().numpy(), project_nonnegative(kernel, law, 2), atol=1e-13)
    assert torch.autograd.gradcheck(lambda w: project_nonnegative(w, law, 2), tensor)


@given(axes(), st.integers(0, 8))
def test_nonnegative_cell_kernels_stay_in_the_central_block(axis, padding):
    kernel_size, stride, _ = axis
    assume(padding < kernel_size)
    nearest = project_nonnegative(np.arange(1.0, kernel_size + 1), "cell", stride, padding)
    outside = np.r_[0:padding, min(padding + stride, kernel_size) : kernel_size]
    assert not nearest[outside].any()
    np.testing.assert_allclose(nearest.sum(), stride)


# Errors -------------------------------------------------------------------------------------------


def test_unknown_law():
    with pytest.raises(OptionError, match=r"law expected .* of 'total', 'phase', 'cell', received 'mass'"):
        law_system("mass", 4, 2)
    with pytest.raises(OptionError, match=r"received \(\): choose among"):
        project(np.ones(4), (), 2)


@pytest.mark.parametrize(("kernel_size", "stride"), [((3,), (4,)), ((4, 1), (2, 2))])
def test_phase_needs_a_kernel_as_long_as_the_stride(kernel_size, stride):
    with pytest.raises(ShapeError, match=r"'phase' expected kernel size >= stride .* received k=.* and s="):
        law_system("phase", kernel_size, stride)
    with pytest.raises(ShapeError, match="take a kernel of at least the stride"):
        project_nonnegative(np.ones(kernel_size), "phase", stride)


@pytest.mark.parametrize("law", ["total", "cell"])
def test_total_and_cell_hold_for_kernels_shorter_than_the_stride(law):
    assert obeys(project(np.ones((3, 2)), law, 4), law, 4)


def test_cell_needs_its_central_block():
    with pytest.raises(ShapeError, match=r"padding < kernel size, received k=\(3,\), s=\(2,\) and .* \(3,"):
        law_system("cell", 3, 2, 3)


def test_laws_that_cannot_hold_together():
    with pytest.raises(ShapeError, match=r"\('phase', 'cell'\) expected taps enough .* \(1,\): no kernel"):
        law_system(("cell", "phase"), 2, 2, 1)


def test_phase_and_cell_together_leave_no_nonnegative_kernel_to_learn():
    with pytest.raises(OptionError, match=r"leave only the block of ones \(nearest neighbour\)"):
        simplex_groups(("phase", "cell"), 6, 2)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "word"),
    [
        ((4, 4), (2,), None, "stride"),
        (4, 0, None, "stride"),
        (0, 1, None, "kernel_size"),
        (4, 2, -1, "padding"),
        ((4, 4), 2, (1, 1, 1), "padding"),
        (4, 1.5, None, "stride"),
    ],
)
def test_geometry_that_does_not_fit(kernel_size, stride, padding, word):
    with pytest.raises(ShapeError, match=rf"^{word} expected . whole number\(s\) >= "):
        law_system("total", kernel_size, stride, padding)


def test_too_few_axes():
    with pytest.raises(ShapeError, match=r"expected at least 2 axes for stride \(2, 2\), received \(4,\)"):
        project(np.ones(4), "total", (2, 2))


def test_every_law_is_a_linear_system_of_full_use():
    for law, stride in itertools.product(LAWS, (1, 2, 3)):
        rows, *_ = law_system(law, 7, stride)
        assert (rows.sum(0) == 1).all()
