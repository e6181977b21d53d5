"""Diagnosis of a trained model (its layers, and its response to waves, shifts and fields), and its fix by smoothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.artefacts.diagnosis import Diagnosis, Section, db
from downscale.artefacts.kernel import add_fields, coverage_facts, coverage_picture
from downscale.cf.coordinates import horizontal_variables, select
from downscale.cf.horizontal import horizontal
from downscale.errors import DownscaleError, InputError, OptionError, OutputError
from downscale.fields.aggregate import Aggregation
from downscale.io.paths import check_target
from downscale.kernels.imaging import decibels, imaging
from downscale.metrics.checkerboard import checkerboard
from downscale.metrics.response import Probe, equivariance, measure_response, plane, probe, red_noise
from downscale.models.static_features import static_features
from downscale.nn.separable import operator, parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.grid.latlon import RectilinearGrid
    from downscale.nn.learned import Learned
    from downscale.nn.spec import ModelSpec, Variable
    from downscale.typing import Place, Upscaler

# Coarse cells of the torus: waves from sixteen cells on.
CELLS = 16
REFERENCES = ("bilinear", "sobolev")
# Amplitude of waves: for fields of both signs as a fraction of the standard deviation in training, for others as a
# fraction of their level.
SIGNED_SWING, SWING = 0.2, 0.5

# Stronger smoothing leaves only the means of whole kernels, and the equations become ill-conditioned.
STRONGEST = 1e4
NO_WAVES = "not tested: the model gives the probability of an event, not a field with waves"


class _FirstInput:
    """The first output of a model as a method for its field, with all other inputs at their means."""

    def __init__(self, model: Learned, grid: RectilinearGrid) -> None:
        self.bound = model.bind(grid, parts_of(grid, model.spec.factor))
        self.factor, self.halo = self.bound.factor, self.bound.halo
        self.multiple_of, self.laws = self.bound.multiple_of, self.bound.laws
        self.levels = [level_of(variable)[0] for variable in (*model.spec.outputs, *model.spec.predictors)]
        self.levels += [0.0] * len(model.spec.time_channels)

    def __call__(self, coarse: Tensor, place: Place) -> Tensor:
        if len(self.levels) == 1:
            return self.bound(coarse, place)
        fields = coarse.new_tensor(self.levels)[:, None, None].expand(len(coarse), -1, *coarse.shape[-2:]).clone()
        fields[:, 0] = coarse
        return self.bound(fields, place)


def level_of(variable: Variable) -> tuple[float, float]:
    """Return a typical level and amplitude of the values of a variable."""
    if variable.transform == "linear" and variable.bounds[0] is None:
        return variable.mean, SIGNED_SWING * variable.std
    level = variable.mean + variable.std if variable.transform == "linear" else variable.scale
    return level, SWING * level


def diagnose_model(model: Learned, name: str) -> Diagnosis:
    """Return the diagnosis of the first output of a model over flat ground."""
    spec = model.spec
    diagnosis = Diagnosis(name, "model", spec.factor)
    _add_layers(diagnosis, model)
    if spec.event is not None:
        # A probability has no response to waves: it is zero for a smooth field below the threshold.
        diagnosis.sections.append(Section("Waves, shifts and fields", (), (), NO_WAVES))
        diagnosis.facts["event"] = spec.event.name
        return diagnosis
    level, swing = level_of(spec.outputs[0])
    references = {label: probe(partial(_reference_operator, label, spec.factor), CELLS) for label in REFERENCES}
    probes: dict[str, Probe] = {name: model_probe(model, CELLS), **references}
    _add_waves(diagnosis, probes, level, swing)
    shifts = {label: equivariance(function, level=level, amplitude=swing / 2) for label, function in probes.items()}
    field = model_probe(model, 3 * CELLS)(level + swing / 2 * np.clip(red_noise(3 * CELLS, count=2), -1.9, 1.9))
    add_fields(diagnosis, shifts, checkerboard(field, spec.factor))
    diagnosis.facts["finite_reach"] = probes[name].exact
    return diagnosis


def _reference_operator(name: str, factor: tuple[int, int], grid: RectilinearGrid) -> Upscaler:
    return operator(name, grid, factor)


def model_probe(model: Learned, cells: int) -> Probe:
    """Return a model as a function on a torus, over flat land."""
    return probe(lambda grid: _FirstInput(model, grid), cells, statics=_flat_channels(model.spec))


def _flat_channels(spec: ModelSpec) -> dict[str, float]:
    """Return the uniform values of the fine channels over flat ground at the equator."""
    fine = plane(4 * spec.factor[0], 4 * spec.factor[1])
    cells = Aggregation(
        np.full(fine.shape[0], 1 / spec.factor[0]), np.full(fine.shape[1], 1 / spec.factor[1]), *spec.factor
    )
    inputs = {"orog": np.zeros(fine.shape), "sftlf": np.ones(fine.shape), "climatology": np.ones(fine.shape)}
    features = static_features(spec.statics, fine, cells, inputs, lambda x, y: (0.0 * x, 0.0 * y))
    return {name: float(np.mean(values)) for name, values in features.items()}


def _add_layers(diagnosis: Diagnosis, model: Learned) -> None:
    """Add the upsampling layers: sizes, constraints, images of their kernels."""
    from downscale.nn.upsampling import upsampling_layers

    rows, facts = [], []
    for layer in upsampling_layers(model):
        weight, coverage = layer.weight.double().cpu().numpy(), layer.coverage
        try:
            images = imaging(weight, layer.stride, layer.padding)
            rejection, of_constants = images.overall, images.overall_of_constants
        except DownscaleError:
            rejection = of_constants = float("nan")
        sizes = " x ".join(map(str, coverage.kernel_size)), " x ".join(map(str, layer.stride))
        law = layer.law if isinstance(layer.law, str) else ", ".join(layer.law or ("none",))
        even = "even" if coverage.variation == 0 else f"uneven by {coverage.variation}"
        rows.append((layer.name, layer.kind, *sizes, even, law, db(rejection), db(of_constants)))
        facts.append(
            {"name": layer.name, "kind": layer.kind, "law": law, "image_rejection_db": rejection,
             "checkerboard_of_constants_db": of_constants, "coverage": coverage_facts(coverage)}
        )  # fmt: skip
        if diagnosis.coverage is None:
            diagnosis.coverage = coverage_picture(coverage)
    head = ("layer", "kind", "k", "s", "coverage", "law", "image rejection, dB", "of constants, dB")
    diagnosis.sections.append(
        Section("Up-sampling layers", head, rows, "" if rows else "none: the network upsamples by other layers")
    )
    diagnosis.facts["layers"] = facts


def _add_waves(diagnosis: Diagnosis, probes: dict[str, Probe], level: float, swing: float) -> None:
    """Add responses to plane waves, the subject first."""
    rows, facts, responses = [], {}, {}
    for name, method_probe in probes.items():
        response = measure_response(method_probe, level, swing)
        harmonics = float(-decibels(response.harmonics.max()))
        rows.append(
            (name, db(response.rejection), db(response.checkerboard_of_constants), f"{response.pass_band_error:.3f}",
             db(harmonics))
        )  # fmt: skip
        facts[name] = response.to_dict()
        responses[name] = response.frequency, decibels(response.gain**2)
        responses[f"{name}, images"] = response.frequency, decibels(response.images)
    head = ("", "image rejection, dB", "of constants, dB", "pass-band error", "harmonics below, dB")
    note = f"plane waves of {swing:g} about {level:g}; nonlinear layers produce harmonics"
    diagnosis.sections.append(Section("Plane waves", head, rows, note))
    diagnosis.facts |= {"waves": facts, "level": level, "swing": swing}
    diagnosis.responses = responses


def fix_model(
    model: str,
    strength: float,
    out: Path,
    truth: xr.Dataset | None = None,
    *,
    orog: Any = None,
    overwrite: bool = False,
) -> tuple[list[Section], Path]:
    """Smooth the upsampling layers of a trained model within their constraints, and write a new checkpoint.

    Returns tables of the layers and of the model before and after, and the path of the checkpoint.

    ``strength`` is lambda of :func:`downscale.kernels.smooth.smooth`; zero imposes the constraints alone. Fine fields
    ``truth`` are coarsened and downscaled for the error before and after; ``orog`` is for models that use it.
    """
    from downscale.models import path_of
    from downscale.models.checkpoint import load, save
    from downscale.nn.upsampling import smooth_layers

    if not 0 <= strength <= STRONGEST:
        raise OptionError(f"expected a strength of smoothing of 0 to {STRONGEST:g}, received {strength:g}; try 0.03")
    source = path_of(model)
    target = check_target(out, overwrite, inputs=(source,))
    if target.suffix != ".safetensors":
        raise OutputError(f"expected the suffix .safetensors, received '{target.name}'; a checkpoint is known by it")
    learned_model, record = load(source)
    if learned_model.spec.event is not None:
        raise OptionError(
            f"expected a model of fields, received one of the mask of {learned_model.spec.event.name!r}; waves cannot "
            "measure the repair of a probability"
        )
    before = _measure(learned_model, truth, orog)
    layers = smooth_layers(learned_model, strength)
    after = _measure(learned_model, truth, orog)
    note = f"Up-sampling kernels smoothed by {strength:g} after training."
    save(target, learned_model, replace(record, description=f"{record.description} {note}".strip()))
    rows = [(item.name, item.kind, item.law, f"{item.before:.4g}", f"{item.after:.4g}") for item in layers]
    measures = [(words, before[words], after[words]) for words in before]
    tables = [
        Section("Layers", ("layer", "kind", "law", "roughness before", "after"), rows),
        Section("Model", ("", "before", "after"), measures),
    ]
    return tables, target


def _measure(model: Learned, truth: xr.Dataset | None, orog: Any) -> dict[str, str]:
    """Return measures of a model's artefacts and error as text."""
    facts = diagnose_model(model, "model").facts
    waves = facts["waves"]["model"]
    measures = {
        "checkerboard of constants, dB below waves": db(waves["checkerboard_of_constants_db"]),
        "image rejection, dB": db(waves["image_rejection_db"]),
        "checkerboard index of its fields, dB": f"{facts['checkerboard']['checkerboard_index_db']:+.1f}",
        "error of shifts": f"{facts['equivariance']['equivariance_error']:.4f}",
    }
    if truth is not None:
        measures["RMSE on the given fields"] = f"{truth_error(model, truth, orog):.5g}"
    return measures


def truth_error(model: Learned, truth: xr.Dataset, orog: Any = None) -> float:
    """Return the area-weighted root mean square error of a model's first output on fields after coarsening."""
    from downscale.api import downscale
    from downscale.steps.coarsen import cell_area, coarsen

    axes = horizontal(truth)
    factors = dict(zip(axes.dims, model.spec.factor, strict=True))
    fine = truth.isel({dim: slice(truth.sizes[dim] // f * f) for dim, f in factors.items()})
    fine = select(fine, horizontal_variables(fine, axes))
    coarse = coarsen(fine, factors)
    estimate = downscale(coarse, method=model, orog=orog, check="skip")
    names = [name for name in estimate.data_vars if name in fine and fine[name].dtype.kind == "f"]
    if not names:
        raise InputError("expected fields that the model makes, received none; give a file with its variable")
    name = names[0]
    squares = (estimate[name] - fine[name].assign_coords(estimate[name].coords)).astype("f8") ** 2
    return float(squares.weighted(cell_area(fine)).mean()) ** 0.5
