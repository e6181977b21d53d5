"""Diagnosis of kernels: coverage, conservation, images, and effects on fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downscale.artefacts.diagnosis import Curve, Diagnosis, Section, db
from downscale.errors import ShapeError
from downscale.kernels.coverage import Coverage, nearest_divisible, require_no_holes
from downscale.kernels.imaging import REFERENCES, Imaging, decibels, imaging, reference_kernel, require_finite, response
from downscale.kernels.laws import LAWS, law_residual
from downscale.metrics.checkerboard import Checkerboard, checkerboard
from downscale.metrics.response import Equivariance, Probe, equivariance, red_noise

Floats = NDArray[np.float64]
Pair = tuple[int, int]
CELLS = 32
# Size of the test field for a kernel's checkerboard, and its mean in standard deviations.
FIELD_CELLS, LEVEL = 48, 3.0
# Largest p of a significant pattern, and least index of one that exceeds those of natural fields.
CHANCE, LOUD = 0.01, 3.0


@dataclass(frozen=True, eq=False)
class Kernels:
    """Kernels of one layer or method, shape (n, k_y, k_x), with stride and padding along rows and columns.

    In density form: the weights of a kernel that preserves constants on average sum to ``stride_y * stride_x``.
    """

    name: str
    weights: Floats
    stride: Pair
    padding: Pair

    @property
    def coverage(self) -> Coverage:
        """Number of weights by phase."""
        return Coverage.of(tuple(self.weights.shape[-2:]), self.stride, self.padding)

    @property
    def imaging(self) -> Imaging:
        """Images of all kernels together."""
        return imaging(self.weights, self.stride, self.padding)


def method_kernels(name: str, factor: Pair) -> Kernels:
    """Return the kernel of a training-free method, far from all edges."""
    y, x = (_axis(name, step) for step in factor)
    return Kernels(name, np.outer(y[0], x[0])[None], factor, (y[1], x[1]))


def _axis(name: str, factor: int) -> tuple[Floats, int]:
    if factor == 1:
        return np.ones(1), 0
    kernel = reference_kernel(name, factor)
    return kernel.weights, kernel.padding


def diagnose_kernels(kernels: Kernels) -> Diagnosis:
    """Return the diagnosis of kernels, including their effect on fields for a single kernel."""
    require_finite(kernels.weights)
    require_no_holes(kernels.weights.shape[-2:], kernels.stride, kernels.padding)
    compared = [kernels, *(method_kernels(name, kernels.stride) for name in REFERENCES if name != kernels.name)]
    coverage, images, laws = kernels.coverage, {other.name: other.imaging for other in compared}, _laws(kernels)
    words = {law: "no kernel of these sizes can" if residual is None else "obeyed" if residual < 1e-6 else
             f"missed by {residual:.3g}" for law, residual in laws.items()}  # fmt: skip
    diagnosis = Diagnosis(
        kernels.name, "kernel", kernels.stride,
        [
            _coverage_section(coverage),
            Section("Sum-to-one laws", ("law", ""), [*words.items()]),
            _images_section(images),
        ],
        {"coverage": coverage_facts(coverage), "imaging": images[kernels.name].to_dict(), "laws": laws},
        coverage=coverage_picture(coverage),
        responses={other.name: curve(other) for other in compared},
        rejection={name: simple_images(image.rejection, 100.0) for name, image in images.items()},
    )  # fmt: skip
    if len(kernels.weights) == 1:
        field = torus(kernels, FIELD_CELLS)(LEVEL + red_noise(FIELD_CELLS, count=2))
        shifts = {other.name: equivariance(torus(other, CELLS)) for other in compared}
        add_fields(diagnosis, shifts, checkerboard(field, kernels.stride))
    return diagnosis


def simple_images(table: Mapping[Any, float], largest: float = np.inf) -> dict[str, float]:
    """Return the images along columns alone, along rows alone and along both, by name."""
    return {f"{m[0]},{m[1]}": min(v, largest) for m, v in table.items() if m[0] in (0, m[1]) or m[1] == 0}


def add_fields(diagnosis: Diagnosis, shifts: dict[str, Equivariance], board: Checkerboard) -> None:
    """Add the effect on fields: the error of shifts, of the subject first, and a checkerboard of red noise."""
    name, *others = shifts
    diagnosis.sections += [_shift_section(shifts), board_section({"red noise": board.to_dict()})]
    diagnosis.facts |= {"equivariance": shifts[name].to_dict(), "checkerboard": board.to_dict()}
    diagnosis.facts["equivariance_of_others"] = {other: shifts[other].mean for other in others}
    diagnosis.shifts = {label: (shift.shifts, shift.error) for label, shift in shifts.items()}
    diagnosis.board = board


def coverage_picture(coverage: Coverage) -> NDArray[np.int64]:
    """Return the coverage of a field just large enough for a central cell without edge effects."""
    cells = max(6, *(2 * (k // s) for k, s in zip(coverage.kernel_size, coverage.stride, strict=True)))
    return coverage.map((cells, cells))


def coverage_facts(coverage: Coverage) -> dict[str, Any]:
    """Return sizes, weights by phase, and their variation as plain values."""
    return {
        "kernel_size": list(coverage.kernel_size),
        "stride": list(coverage.stride),
        "padding": list(coverage.padding),
        "taps_of_phases": [taps.tolist() for taps in coverage.taps],
        "variation": coverage.variation,
        "ripple_of_equal_weights": coverage.ripple,
        "off_centre_fine_cells": list(coverage.off_centre),
        "nearest_divisible": [nearest_divisible(k, s) for k, s in zip(coverage.kernel_size, coverage.stride,
        strict=True)],
    }  # fmt: skip


def _coverage_section(coverage: Coverage) -> Section:
    """Return coverage as a table, one row per axis."""
    rows, advice = [], []
    axes = zip(
        ("rows", "columns"), coverage.kernel_size, coverage.stride, coverage.taps, coverage.off_centre, strict=True
    )
    for name, size, step, taps, shift in axes:
        evenness = "even" if np.ptp(taps) == 0 else f"uneven by {np.ptp(taps)}"
        rows.append((name, str(size), str(step), " ".join(map(str, taps)), evenness, f"{shift:+.1f}" if shift else "0"))
        if np.ptp(taps):
            advice.append(f"take k={nearest_divisible(size, step)} along {name}")
        if shift % 1:
            advice.append(f"one of k and s is odd along {name}: the field shifts by half a fine cell")
    head = ("axis", "k", "s", "weights per phase", "coverage", "off centre, fine cells")
    return Section("Coverage", head, rows, "; ".join(dict.fromkeys(advice)))


def _laws(kernels: Kernels) -> dict[str, float | None]:
    """Return the violation of each law by the kernels; None if no kernel of these sizes can satisfy it."""
    residuals: dict[str, float | None] = {}
    for law in LAWS:
        try:
            residuals[law] = law_residual(kernels.weights, law, kernels.stride, kernels.padding)
        except ShapeError:
            residuals[law] = None
    return residuals


def _images_section(images: dict[str, Imaging]) -> Section:
    """Return images and pass band beside those of the training-free methods."""
    rows = []
    for name, image in images.items():
        errors = (f"{value:.3f}" for value in (image.pass_band_error, image.pass_band_error_of_averages))
        rows.append((name, db(image.overall), db(image.overall_of_constants), *errors))
    rows.append(("ideal low-pass", "none left", "none left", "0.000", "-"))
    head = ("kernel", "image rejection, dB", "of constants, dB", "pass-band error", "as averages")
    band = next(iter(images.values())).band
    note = f"waves up to {band:g} cycles per coarse cell; as averages: of waves with given cell means"
    return Section("Spectral images", head, rows, note)


def curve(kernels: Kernels) -> Curve:
    """Return the mean response along the axis with the largest refinement, up to the highest fine frequency."""
    axis = int(np.argmax(kernels.stride))
    fine = np.linspace(0, 0.5, 257)
    frequencies = [np.zeros(1), fine] if axis else [fine, np.zeros(1)]
    gains = response(kernels.weights, kernels.stride, frequencies, kernels.padding).reshape(len(kernels.weights), -1)
    power = (np.abs(gains) ** 2).mean(0)
    return fine * kernels.stride[axis], decibels(power / max(power[0], 1e-30))


def torus(kernels: Kernels, cells: int) -> Probe:
    """Return one kernel as a method on a torus: zero insertion, then a circular convolution."""
    sizes = [cells * step for step in kernels.stride]
    kernel = np.zeros(sizes)
    rows, columns = (
        (np.arange(k) - pad) % n for k, pad, n in zip(kernels.weights.shape[-2:], kernels.padding, sizes, strict=True)
    )
    np.add.at(kernel, np.ix_(rows, columns), kernels.weights[0])
    gains = np.fft.rfft2(kernel)

    def refine(coarse: Floats) -> Floats:
        impulses = np.zeros((len(coarse), *sizes))
        impulses[:, :: kernels.stride[0], :: kernels.stride[1]] = coarse
        return np.fft.irfft2(np.fft.rfft2(impulses) * gains, s=sizes)

    return Probe(refine, cells, kernels.stride)


def _shift_section(shifts: dict[str, Equivariance]) -> Section:
    """Return errors of shifts by fractions of a cell as a table, the subject first."""
    rows = [
        (name, f"{shift.mean:.4f}", f"{shift.worst:.4f}", f"{shift.mean_displacement:.4f}")
        for name, shift in shifts.items()
    ]
    head = ("", "mean error", "largest error", "blob displaced, coarse cells")
    note = "errors relative to the standard deviation of a field with the waves of the pass band"
    return Section("Shifts by parts of a coarse cell", head, rows, note)


def board_section(boards: dict[str, dict[str, Any]]) -> Section:
    """Return checkerboards of fields as a table."""
    rows = []
    for name, board in boards.items():
        is_loud = board["checkerboard_index_db"] >= LOUD
        verdict = "no" if board["p_value"] >= CHANCE else "yes" if is_loud else "faintly"
        energy = board["checkerboard_energy_db"]
        rows.append(
            (name, f"{board['checkerboard_index_db']:+.1f}", "-" if not np.isfinite(energy) else f"{energy:.1f}",
             f"{board['pattern_amplitude']:.3g}", f"{board['p_value']:.3f}", verdict)
        )  # fmt: skip
    head = ("field", "index, dB", "energy, dB", "fixed pattern, units", "p", "repeats with coarse cells")
    note = "index: power at the image frequencies relative to their surroundings; energy: to the variance of the field"
    return Section("Checkerboard of fields", head, rows, note)
