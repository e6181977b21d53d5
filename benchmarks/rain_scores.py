"""Scores of rain with and without the power transform: RMSE, MAE, the 99.9 % quantile and the spectrum.

A part of accuracy.py. Exponents were chosen on the fields marked as development; the others are held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from fields import FIELDS, SMALL_RAIN, Field, crop, open_field

import downscale
from downscale.metrics.scores import Scores, Setting

KERNELS: dict[str, dict[str, Any]] = {"kernel": {"transform": None}, "transform": {"transform": "auto"}}
# Names and units by which the transform is chosen; it is free of units.
RAIN = {"standard_name": "precipitation_amount", "units": "kg m-2"}
DEVELOPMENT = ("mch radar 1 km", "fmi radar 1 km", "arome pr 0.025 deg", "lisflood pr 5 km")
HEADER = (
    "group", "coarse cells", "RMSE ratio", "MAE ratio", "q99.9 / truth: kernel", "transform", "spectrum dB: kernel",
    "transform", "cell err",
)  # fmt: skip
# Fewer cells along an axis have no interior.
FEWEST_CELLS = 3
AIM, MOST = 0.945, 1.01


@dataclass(frozen=True)
class RainRow:
    """The scores of one field at one factor, by kernel."""

    field: Field
    shape: tuple[int, ...]
    scores: dict[str, dict[str, float]]
    cell_error: float

    @property
    def group(self) -> str:
        """Return whether exponents were chosen on this field."""
        return "development" if self.field.name in DEVELOPMENT else "held out"

    def ratio(self, name: str) -> float:
        """Return a score with the transform relative to that without it."""
        return self.scores["transform"][name] / self.scores["kernel"][name]


def run_rain(folder: Path, factors: Sequence[int], steps: int) -> dict[int, list[RainRow]]:
    """Measure all rain fields at all factors, reading each once."""
    rows: dict[int, list[RainRow]] = {factor: [] for factor in factors}
    for item in (*(one for one in FIELDS if one.group == "rain"), *SMALL_RAIN):
        truth = open_field(item, folder, steps)
        for factor in factors:
            if min(truth["field"].shape[-2:]) // factor >= FEWEST_CELLS:
                rows[factor].append(measure_rain(item, crop(truth, factor), factor))
    return rows


def measure_rain(item: Field, truth: xr.Dataset, factor: int) -> RainRow:
    """Coarsen a field, downscale it with and without the transform, and compare."""
    coarse: Any = downscale.coarsen(truth, factor)
    valid = downscale.coarsen(truth.notnull().astype(np.float64), factor)
    coarse = coarse.where(valid["field"] > 1 - 1e-9)
    coarse["field"].attrs = RAIN
    area = downscale.cell_area(truth).values
    found, cell_error = {}, float("nan")
    for name, options in KERNELS.items():
        fine = downscale.downscale(coarse, factor, bounds=(0, None), check="skip", **options)
        present = fine["field"].notnull().values
        scores = Scores(Setting(extreme=0.999))
        scores.add(fine["field"].values, truth["field"].values, np.where(present, area, 0.0))
        quantile, true_quantile = (float(values[0]) for values in scores.quantiles(0.999))
        found[name] = {
            "rmse": scores["rmse"], "mae": scores["mae"], "q999": quantile / true_quantile,
            "spectrum": scores["spectral_distance"],
        }  # fmt: skip
        cell_error = downscale.check_conservation(coarse, fine, bounds=(0, None)).variables["field"].max_relative_error
    return RainRow(item, coarse["field"].shape, found, cell_error)


def rain_table(factor: int, rows: Sequence[RainRow]) -> list[list[str]]:
    """Return the lines of one factor: all fields, then the means of both groups."""
    lines = [[f"x{factor} rain", *HEADER]]
    for row in rows:
        kernel, transform = row.scores["kernel"], row.scores["transform"]
        pairs = [f"{one[name]:.3f}" for name in ("q999", "spectrum") for one in (kernel, transform)]
        ratios = [f"{row.ratio(name):.3f}" for name in ("rmse", "mae")]
        shape = " x ".join(map(str, row.shape))
        lines.append([row.field.name, row.group, shape, *ratios, *pairs, f"{row.cell_error:.1e}"])
    for group in ("development", "held out"):
        members = [row for row in rows if row.group == group]
        if members:
            lines.append([f"MEAN of {len(members)}", group, "", *means(members)])
    return lines


def means(rows: Sequence[RainRow]) -> list[str]:
    """Return geometric means of ratios, arithmetic ones of other scores, and the largest cell error."""
    ratios = [f"{geometric_mean(row.ratio(name) for row in rows):.3f}" for name in ("rmse", "mae")]
    pairs = [
        f"{np.mean([row.scores[kernel][name] for row in rows]):.3f}"
        for name in ("q999", "spectrum")
        for kernel in KERNELS
    ]
    return [*ratios, *pairs, f"{max(row.cell_error for row in rows):.1e}"]


def geometric_mean(ratios: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(ratios)))))


def rain_conclusion(rows: dict[int, list[RainRow]]) -> str:
    """Return the closing lines: the mean ratios of held-out fields, and the largest ratio of all."""
    lines = []
    for factor, found in rows.items():
        held_out = [row.ratio("rmse") for row in found if row.group == "held out"]
        every = {row.field.name: row.ratio("rmse") for row in found}
        if not held_out:
            continue
        worst = max(every, key=lambda name: every[name])
        lines.append(
            f"x{factor} rain: RMSE / sobolev with bounds {geometric_mean(held_out):.3f} on {len(held_out)} held-out "
            f"fields, {geometric_mean(every.values()):.3f} on all {len(every)} (aim {AIM}); largest {every[worst]:.3f} "
            f"({worst}; aim {MOST})"
        )
    return "\n".join(lines)
