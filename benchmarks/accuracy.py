"""Error of the training-free methods on real fields, compared with the reference table.

Each field is averaged over coarse cells with ``downscale.coarsen``, downscaled by every method, and compared with
the original. The score is the area-weighted root mean square error over all cells of complete coarse cells, as a
ratio to that of bilinear interpolation. Coarse cells with a missing value are dropped. The last columns are the
largest relative error of a coarse cell, from ``downscale.check_conservation``. Further tables compare rain with and
without the power transform.

Run from the root of the repository, with the package installed:

    python benchmarks/accuracy.py [--data DIR] [--factors 2 4 8] [--steps 24] [--markdown]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 2 if it is absent.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from fields import FIELDS, GROUPS, SMALL_RAIN, Field, crop, files_of, large_enough, open_field
from rain_scores import RAIN, rain_conclusion, rain_table, run_rain
from scipy.interpolate import CubicSpline

import downscale
from downscale.fields.fill import fill_missing

TOLERANCE = 0.02
BASE = "bilinear"
# Cells beyond the ends of a circle, and around gaps, that a spline uses.
REACH = 6
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

Options = Mapping[str, Any]

METHODS: dict[str, Options] = {
    BASE: {"method": "bilinear", "conserve": None},
    "block": {"method": "conservative"},
    "bicubic": {"method": "bicubic", "conserve": None},
    "bilin+add": {"method": "bilinear"},
    "torch": {},
    "spline+add": {},
    "sob 5 taps": {"method": "sobolev", "taps": 5},
    "sobolev": {"method": "sobolev"},
    "bounded": {"method": "sobolev", "bounds": (0, None), "transform": None},
    "rain": {"method": "sobolev", "bounds": (0, None)},
}
RATIOS = tuple(name for name in METHODS if name != BASE)
JUDGED = (BASE, "sobolev")
ONLY_RAIN = ("bounded", "rain")

# RMSE / bilinear: geometric means over fields, by factor and group. The five taps are of order 1 at x8, else 1.25.
REFERENCE: dict[int, dict[str, dict[str, float]]] = {
    2: {
        "smooth": {"bicubic": 0.811, "sob 5 taps": 0.746, "sobolev": 0.740},
        "rain": {"bicubic": 0.809, "sob 5 taps": 0.750, "sobolev": 0.745, "bounded": 0.74},
    },
    4: {
        "smooth": {"bicubic": 0.884, "sob 5 taps": 0.838, "sobolev": 0.836},
        "rain": {"bicubic": 0.877, "sob 5 taps": 0.827, "sobolev": 0.823, "bounded": 0.816},
    },
    8: {
        "smooth": {"bicubic": 0.908, "sob 5 taps": 0.869},
        "rain": {"bicubic": 0.921, "sob 5 taps": 0.886, "bounded": 0.875},
    },
}
# The reference has one range for piecewise constant fields, for all factors: shown, not compared.
BLOCK_RANGE = (1.13, 1.19)
# Single fields at x4: very smooth, so not in the means.
REFERENCE_UPPER = {"era-interim u 0.75 deg": 0.612, "era-interim v 0.75 deg": 0.733, "era-interim z 0.75 deg": 0.498}


@dataclass(frozen=True)
class Row:
    """The scores of one field at one factor."""

    field: Field
    shape: tuple[int, ...]
    base: float
    ratios: dict[str, float]
    cell_errors: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """A measured ratio and its reference."""

    label: str
    measured: float
    spread: float
    reference: tuple[float, float]
    judged: bool = True

    @property
    def difference(self) -> float:
        """Return the signed difference from the reference (from the nearer end of a range)."""
        low, high = self.reference
        return min(self.measured - low, 0.0) + max(self.measured - high, 0.0)

    @property
    def close(self) -> bool:
        """Return whether the ratio is within the tolerance of its reference, or has no reference."""
        return not self.judged or abs(self.difference) <= TOLERANCE


def measure(item: Field, truth: xr.Dataset, factor: int) -> Row:
    """Coarsen a field, downscale it by every method, and compare."""
    truth = crop(truth, factor)
    coarse = complete_cells(truth, factor)
    coarse["field"].attrs = RAIN if item.group == "rain" else {}
    area = downscale.cell_area(truth).values
    errors, cell_errors = {}, {}
    for name, options in METHODS.items():
        if name in ONLY_RAIN and item.group != "rain":
            continue
        fine: Any
        if name == "torch":
            fine = torch_bicubic(coarse, factor)
        elif name == "spline+add":
            fine = downscale.conserve(spline(coarse, factor), coarse, bounds=None)
        else:
            fine = downscale.downscale(coarse, factor, **settings(name, options, factor), check="skip")
        errors[name] = rmse(fine["field"].values, truth["field"].values, area)
        if name in JUDGED:
            report = downscale.check_conservation(coarse, fine, bounds=None)
            cell_errors[name] = report.variables["field"].max_relative_error
    ratios = {name: errors[name] / errors[BASE] for name in RATIOS if name in errors}
    return Row(item, truth["field"].shape, errors[BASE], ratios, cell_errors)


def cells_and_values(coarse: xr.Dataset, factor: int) -> tuple[xr.Dataset, np.ndarray]:
    """Return a Dataset on the fine cells, and the coarse values with gaps filled from their neighbours."""
    cells: Any = downscale.downscale(coarse, factor, method="conservative", bounds=None, check="skip")
    values = coarse["field"].values
    values = fill_missing(values, np.isnan(values), (REACH, REACH), closed=False, default=float(np.nanmean(values)))
    return cells, values


def torch_bicubic(coarse: xr.Dataset, factor: int) -> xr.Dataset:
    """Return PyTorch's bicubic interpolation: the cubic of parameter -0.75, where ``bicubic`` has Keys' -0.5."""
    cells, values = cells_and_values(coarse, factor)
    maps = torch.from_numpy(values.reshape(-1, 1, *values.shape[-2:]))
    fine = torch.nn.functional.interpolate(maps, scale_factor=factor, mode="bicubic", align_corners=False).numpy()
    return with_values(cells, fine.reshape(cells["field"].shape))


def with_values(cells: xr.Dataset, values: np.ndarray) -> xr.Dataset:
    """Return a Dataset with other values on the valid cells."""
    return cells.assign(field=(cells["field"].dims, np.where(np.isnan(cells["field"].values), np.nan, values)))


def spline(coarse: xr.Dataset, factor: int) -> xr.Dataset:
    """Return a cubic spline through the centres of coarse cells along both axes, evaluated at those of fine cells.

    A circle of longitudes is closed.
    """
    cells, values = cells_and_values(coarse, factor)
    for axis, dim in ((-2, coarse["field"].dims[-2]), (-1, coarse["field"].dims[-1])):
        centres, ends = coarse[dim].values.astype(float), np.diff(coarse[dim].values[[0, -1]])[0]
        is_circle = axis == -1 and abs(abs(ends) * centres.size / (centres.size - 1) - 360) < 1e-3
        if is_circle:
            around = np.arange(-REACH, centres.size + REACH)
            turns = np.copysign(360.0, ends) * (around // centres.size)
            centres, values = centres[around % centres.size] + turns, values[..., around % centres.size]
        # SciPy takes ascending positions only.
        sign = np.sign(ends)
        values = CubicSpline(sign * centres, values, axis=axis)(sign * cells[dim].values)
    return with_values(cells, values)


def settings(name: str, options: Options, factor: int) -> dict[str, Any]:
    """Return the arguments of a method: the bounds in its name, and order 1 if the reference has it."""
    order = {"order": 1.0} if name == "sob 5 taps" and factor == 8 else {}
    return {"bounds": None, **options, **order}


def complete_cells(truth: xr.Dataset, factor: int) -> xr.Dataset:
    """Return the coarse field, NaN where any of its fine cells is NaN."""
    coarse: Any = downscale.coarsen(truth, factor)
    share = downscale.coarsen(truth.notnull().astype(np.float64), factor)
    return coarse.where(share["field"] > 1 - 1e-9)


def rmse(fine: np.ndarray, truth: np.ndarray, area: np.ndarray) -> float:
    """Return the area-weighted root mean square difference over cells that are valid in both."""
    squares = (fine - truth) ** 2
    present = np.isfinite(squares)
    weights = np.where(present, area, 0.0)
    return float(np.sqrt(np.where(present, squares, 0.0).ravel() @ weights.ravel() / weights.sum()))


def run(fields: Iterable[Field], folder: Path, factors: Sequence[int], steps: int) -> dict[int, list[Row]]:
    """Measure all fields at all factors, reading each once."""
    rows: dict[int, list[Row]] = {factor: [] for factor in factors}
    for item in fields:
        _progress(f"{item.name} ...")
        truth = open_field(item, folder, steps)
        for factor in factors:
            if large_enough(truth, factor):
                rows[factor].append(measure(item, truth, factor))
    _progress("")
    return rows


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:40}\r", end="", file=sys.stderr, flush=True)


def geometric_mean(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Return the geometric mean of a ratio over fields, and its standard error from their scatter."""
    logs = np.log([row.ratios[name] for row in rows])
    mean = float(np.exp(logs.mean()))
    return mean, float(mean * logs.std(ddof=1) / np.sqrt(len(logs))) if len(logs) > 1 else float("nan")


def in_group(rows: Iterable[Row], group: str) -> list[Row]:
    return [row for row in rows if row.field.group == group]


def verdicts(factor: int, rows: Sequence[Row]) -> list[Verdict]:
    """Return the group means, and the single upper-air fields at x4, with their references."""
    found = []
    for group, references in REFERENCE.get(factor, {}).items():
        members = in_group(rows, group)
        if members:
            blocks = geometric_mean(members, "block")
            found.append(Verdict(f"x{factor} {group} block", *blocks, BLOCK_RANGE, judged=False))
            for name, value in references.items():
                mean = geometric_mean(members, name)
                found.append(Verdict(f"x{factor} {group} {name}", *mean, (value, value)))
    for row in in_group(rows, "upper air") if factor == 4 else ():
        value = REFERENCE_UPPER[row.field.name]
        found.append(Verdict(f"x4 {row.field.name} sobolev", row.ratios["sobolev"], float("nan"), (value, value)))
    return found


def field_table(factor: int, rows: Sequence[Row]) -> list[list[str]]:
    """Return the lines of one factor: all fields, then the group means."""
    header = [f"x{factor}", "group", "maps x cells", *RATIOS, "RMSE bilinear", *(f"cell err {n}" for n in JUDGED)]
    lines = [header]
    for group in GROUPS:
        members = in_group(rows, group)
        lines += [_field_line(row) for row in members]
        if members:
            lines.append(_mean_line(group, members))
    return lines


def _field_line(row: Row) -> list[str]:
    ratios = [f"{row.ratios[name]:.3f}" if name in row.ratios else "-" for name in RATIOS]
    errors = [f"{row.cell_errors[name]:.1e}" for name in JUDGED]
    shape = " x ".join(map(str, row.shape))
    return [row.field.name, row.field.group, shape, *ratios, f"{row.base:.3g} {row.field.units}", *errors]


def _mean_line(group: str, members: Sequence[Row]) -> list[str]:
    ratios = [f"{geometric_mean(members, n)[0]:.3f}" if n in members[0].ratios else "-" for n in RATIOS]
    errors = [f"{max(row.cell_errors[name] for row in members):.1e}" for name in JUDGED]
    return [f"MEAN of {len(members)} (largest error)", group, "", *ratios, "", *errors]


def verdict_table(found: Sequence[Verdict]) -> list[list[str]]:
    """Return the lines of the comparison with the references."""
    lines = [["mean RMSE / bilinear", "here", "+- s.e.", "reference", "difference", f"within {TOLERANCE}"]]
    for v in found:
        low, high = v.reference
        reference = f"{low:.3f}" if low == high else f"{low:.2f}-{high:.2f}"
        spread = "" if np.isnan(v.spread) else f"{v.spread:.3f}"
        close = ("yes" if v.close else "NO") if v.judged else "-"
        lines.append([v.label, f"{v.measured:.3f}", spread, reference, f"{v.difference:+.3f}", close])
    return lines


def rendered(lines: Sequence[Sequence[str]], markdown: bool) -> str:
    """Return a table with aligned columns, or in Markdown."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    edge, gap = ("| ", " | ") if markdown else ("", "  ")
    text = []
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        text.append(edge + gap.join(cells) + edge[::-1])
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|" if markdown else "-" * len(text[0])
    return "\n".join([text[0], rule, *text[1:]])


def conclusion(found: Sequence[Verdict]) -> str:
    """Return the closing line: whether all ratios are within the tolerance."""
    judged = [v for v in found if v.judged]
    far = [v for v in judged if not v.close]
    if not judged:
        return "There is no reference for these factors."
    if not far:
        return f"All {len(judged)} means are within {TOLERANCE} of the reference."
    names = ", ".join(f"{v.label} ({v.difference:+.3f})" for v in far)
    return f"NOT all within {TOLERANCE} of the reference: {len(far)} of {len(judged)} are farther: {names}."


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text}")
    return number


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Error of the training-free methods on real fields.")
    data = Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED))
    parser.add_argument("--data", type=Path, default=data, help="folder of the real fields")
    parser.add_argument("--factors", type=_positive, nargs="+", default=[2, 4, 8], help="refinements")
    parser.add_argument("--steps", type=_positive, default=24, help="largest number of maps of a field")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    missing = [name for name in files_of((*FIELDS, *SMALL_RAIN)) if not (options.data / name).exists()]
    if missing:
        received = f"expected the real fields in {options.data}, received no {missing[0]}"
        print(f"{received}; set --data or DOWNSCALE_TEST_DATA", file=sys.stderr)
        return 2
    start = time.perf_counter()
    rows = run(FIELDS, options.data, options.factors, options.steps)
    found = [v for factor in options.factors for v in verdicts(factor, rows[factor])]
    for factor in options.factors:
        print(rendered(field_table(factor, rows[factor]), options.markdown), end="\n\n")
    rain = run_rain(options.data, options.factors, options.steps)
    for factor in options.factors:
        print(rendered(rain_table(factor, rain[factor]), options.markdown), end="\n\n")
    print(rendered(verdict_table(found), options.markdown), end="\n\n")
    print(f"{time.perf_counter() - start:.0f} s; +- s.e. is the standard error from the scatter among the fields")
    print(conclusion(found))
    print(rain_conclusion(rain))
    return 0


if __name__ == "__main__":
    sys.exit(main())
