"""Repair of checkpoints by smoothing of upsampling layers, with indices and errors before and after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from downscale.artefacts.diagnosis import Section, db
from downscale.errors import InputError, OptionError, OutputError
from downscale.io.paths import check_target

if TYPE_CHECKING:
    from downscale.nn.learned import Learned
    from downscale.nn.repair import Smoothed

# Stronger smoothing leaves only the means of whole kernels, and the equations become ill-conditioned.
STRONGEST = 1e4


@dataclass(frozen=True, eq=False)
class Judgement:
    """Measures of a model's artefacts and error.

    Attributes
    ----------
    constants : float
        Decibels by which the pattern from a constant is below waves.
    rejection : float
        Decibels by which images of waves are below them.
    shifts : float
        Error of shifts by fractions of a cell, relative to the standard deviation of a field.
    index : float
        Checkerboard index of its fields, in decibels.
    rmse : float, optional
        Area-weighted error on given fields after coarsening, in units of the field.
    """

    constants: float
    rejection: float
    shifts: float
    index: float
    rmse: float | None = None


@dataclass(frozen=True, eq=False)
class Repair:
    """Result of a repair.

    Attributes
    ----------
    layers : list of Smoothed
        Result for each layer.
    before, after : `Judgement`
        Measures of the model before and after.
    path : Path
        The repaired checkpoint.
    """

    layers: list[Smoothed]
    before: Judgement
    after: Judgement
    path: Path

    @property
    def sections(self) -> list[Section]:
        """Tables of the result."""
        layers = [(each.name, each.kind, each.law, f"{each.before:.4g}", f"{each.after:.4g}") for each in self.layers]
        words = [
            ("checkerboard of constants, dB below waves", db(self.before.constants), db(self.after.constants)),
            ("image rejection, dB", db(self.before.rejection), db(self.after.rejection)),
            ("checkerboard index of its fields, dB", f"{self.before.index:+.1f}", f"{self.after.index:+.1f}"),
            ("error of shifts", f"{self.before.shifts:.4f}", f"{self.after.shifts:.4f}"),
        ]
        if self.before.rmse is not None and self.after.rmse is not None:
            words.append(("RMSE on the given fields", f"{self.before.rmse:.5g}", f"{self.after.rmse:.5g}"))
        return [
            Section("Layers", ("layer", "kind", "law", "roughness before", "after"), layers),
            Section("Model", ("", "before", "after"), words),
        ]


def repair(
    model: str,
    strength: float,
    out: Path,
    truth: xr.Dataset | None = None,
    *,
    orog: Any = None,
    overwrite: bool = False,
) -> Repair:
    """Smooth the upsampling layers of a trained model within their constraints, and write a new checkpoint.

    Parameters
    ----------
    model : str
        A checkpoint, or the name of a model.
    strength : float
        Lambda of :func:`downscale.kernels.smooth.smooth`; zero imposes the constraints alone.
    out : Path
        The new checkpoint.
    truth : Dataset, optional
        Fine fields, to be coarsened and downscaled for the error before and after.
    orog : Dataset, DataArray or file, optional
        Fine orography, for models that use it.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        If the file exists, or would replace the model itself.
    InputError, OptionError
        If there is no such model, it has no upsampling layer, it does not produce the given fields, or it is a mask.
    """
    from downscale.models import path_of
    from downscale.models.checkpoint import load, save
    from downscale.nn.repair import smooth_layers

    if not 0 <= strength <= STRONGEST:
        raise OptionError(f"expected a strength of smoothing of 0 to {STRONGEST:g}, received {strength:g}; try 0.03")
    source = path_of(model)
    target = check_target(out, overwrite, inputs=(source,))
    if target.suffix != ".safetensors":
        raise OutputError(f"expected the suffix .safetensors, received '{target.name}'; a checkpoint is known by it")
    learned, record = load(source)
    if learned.spec.event is not None:
        raise OptionError(
            f"expected a model of fields, received one of the mask of {learned.spec.event.name!r}; waves cannot "
            "measure the repair of a probability"
        )
    before = _judged(learned, truth, orog)
    layers = smooth_layers(learned, strength)
    after = _judged(learned, truth, orog)
    note = f"Up-sampling kernels smoothed by {strength:g} after training."
    save(target, learned, replace(record, description=f"{record.description} {note}".strip()))
    return Repair(layers, before, after, target)


def _judged(learned: Learned, truth: xr.Dataset | None, orog: Any) -> Judgement:
    from downscale.artefacts.model import diagnose_model

    found = diagnose_model(learned, "model").facts
    waves = found["waves"]["model"]
    return Judgement(
        waves["checkerboard_of_constants_db"],
        waves["image_rejection_db"],
        found["equivariance"]["equivariance_error"],
        found["checkerboard"]["checkerboard_index_db"],
        None if truth is None else error_on(learned, truth, orog),
    )


def error_on(learned: Learned, truth: xr.Dataset, orog: Any = None) -> float:
    """Return the area-weighted root mean square error of a model's first output on fields after coarsening.

    Raises
    ------
    InputError
        If the fields do not include the model's output.
    """
    from downscale.api import downscale
    from downscale.cf.coordinates import select
    from downscale.cf.horizontal import horizontal, horizontal_variables
    from downscale.steps.coarsen import cell_area, coarsen

    where = horizontal(truth)
    factors = dict(zip(where.dims, learned.spec.factor, strict=True))
    whole = truth.isel({dim: slice(truth.sizes[dim] // f * f) for dim, f in factors.items()})
    whole = select(whole, horizontal_variables(whole, where))
    coarse = coarsen(whole, factors)
    made = downscale(coarse, method=learned, orog=orog, check="skip")
    shared = [name for name in made.data_vars if name in whole and whole[name].dtype.kind == "f"]
    if not shared:
        raise InputError("expected fields that the model makes, received none; give a file with its variable")
    name = shared[0]
    squares = (made[name] - whole[name].assign_coords(made[name].coords)).astype("f8") ** 2
    return float(squares.weighted(cell_area(whole)).mean()) ** 0.5
