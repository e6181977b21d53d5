"""Deconvolution from file to file: open, restore, write, check the flux of what was written (knows no recipe)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from downscale.errors import ConservationError
from downscale.io.read import open_dataset, sources_of
from downscale.io.stream import scheduled
from downscale.io.write import check_target
from downscale.output import to_netcdf
from downscale.restoration import Course, deconvolve, fluxes, plan_deconvolution
from downscale.restore.methods import Restoration
from downscale.runs.single import open_input

# Rounding of a file's values in float32, and of their sum.
TOLERANCE = 1e-6


def restore_file(
    source: str, output: str | Path, psf: Any, restoration: Restoration, *, dims: Any = None, data_vars: Any = None,
    device: str | None = None, chunks: Any = "auto", complevel: int = 1, overwrite: bool = False, dry_run: bool = False,
) -> tuple[Course, dict[str, Any]]:  # fmt: skip
    """Deconvolve one file into another and return what was planned, and what was found in the file as written.

    Raises
    ------
    ConservationError
        If the flux of a variable changed by more than rounding; there is no file then.
    DownscaleError
        If the request or the input is wrong; before anything is computed where that can be known.

    Notes
    -----
    Total law: the file appears only if the area integral of each map is that of the input.
    """
    before = open_input(source, chunks)
    course = plan_deconvolution(before, psf, restoration, dims, data_vars)
    check_target(output, overwrite, sources_of(before))
    if dry_run:
        return course, {}
    settings = {"dims": dims, "data_vars": data_vars, "device": device}
    with scheduled():
        made: Any = deconvolve(before, course.instrument.psf, restoration.method, **restoration.given, **settings)
        flat = None if dims is not None else before[[*course.names]]
        to_netcdf(made, output, coarse=flat, law="total", tolerance=TOLERANCE, bounds=None, complevel=complevel,
                  overwrite=overwrite)  # fmt: skip
        with open_dataset(output, chunks=chunks) as after:
            facts = fluxes(before, after, course)
    _require_kept(facts, Path(output))
    return course, facts


def _require_kept(facts: dict[str, Any], output: Path) -> None:
    """Remove a file whose flux is not that of the input: profiles and stacks are judged here."""
    for name, found in facts.items():
        if not found["relative_change"] <= TOLERANCE:
            output.unlink(missing_ok=True)
            raise ConservationError(
                f"{name}: expected the flux within {TOLERANCE:g}, received a change of {found['relative_change']:.3g}; "
                "check the input for values beyond the range of its type"
            )


def lines_of(facts: dict[str, Any]) -> list[str]:
    """Return the facts for people, one line a variable."""
    lines = []
    for name, found in facts.items():
        shown = [key for key in ("iterations", "noise", "parameter") if key in found]
        chosen = "; ".join(f"{key} {_range(found[key])}" for key in shown)
        lines.append(
            f"{name}: flux {found['flux_before']:.9g} before, {found['flux_after']:.9g} after (relative change "
            f"{found['relative_change']:.1e}); {chosen}"
        )
    return lines


def _range(pair: list[float]) -> str:
    low, high = (f"{value:.4g}" for value in pair)
    return low if low == high else f"{low} to {high}"
