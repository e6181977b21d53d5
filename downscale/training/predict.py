"""Predictions of models in training and of the kernel, and their errors on a batch of patches."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from downscale.engine.device import working_type
from downscale.fields.conserve import additive, bounded
from downscale.metrics.ensemble import crps
from downscale.nn.learned import Learned
from downscale.nn.spec import ModelSpec
from downscale.training.patches import Batch

# Number of ensemble members for scoring a round.
VALIDATION_MEMBERS = 4


def random_generator(seed: int, *place: int) -> torch.Generator:
    """Return a random generator for one place of a training, reproducible and distinct from those of other places.

    The place is the use, the step or batch, and the process, so that no two processes share noise.
    """
    words = np.random.SeedSequence([seed, *place]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def predict(model: Learned, batch: Batch, members: int = 2, generator: torch.Generator | None = None) -> Tensor:
    """Return the fine fields of a batch, shape (B, V, Y, X), or (M, B, V, Y, X) for an ensemble."""
    predictors = _extra_predictors(model, batch)
    inputs = batch.coarse, batch.proposal, batch.cells, predictors, batch.statics, batch.time_features
    if not model.spec.stochastic:
        prediction: Tensor = model(*inputs)
        return prediction
    shapes = [(len(field), count, *field.shape[-2:])
              for field, count in zip((batch.coarse, batch.proposal), model.spec.noise, strict=True)]  # fmt: skip
    ensemble = []
    for _ in range(members):
        coarse, fine = (torch.randn(shape, generator=generator).to(batch.coarse) for shape in shapes)
        ensemble.append(model(*inputs, noise=(coarse, fine)))
    return torch.stack(ensemble)


def _extra_predictors(model: Learned, batch: Batch) -> Tensor:
    """Return the additional inputs: predictors, and for a compressor the code of the reference."""
    if model.spec.code is None:
        return batch.predictors
    codes = model.encode(batch.target, batch.coarse, batch.proposal, batch.cells)
    return torch.cat([batch.predictors, codes], dim=1)


@torch.no_grad()
def probabilistic_errors(batch: Batch, members: Tensor, kernel: Tensor) -> Tensor:
    """Return weighted sums of the fair CRPS of members, of the kernel's absolute errors, and of weights, (B, V, 3)."""
    valid = torch.isfinite(batch.target) & torch.isfinite(members).all(dim=0) & torch.isfinite(kernel)
    dtype = working_type(batch.target.device)
    weight = torch.where(valid, batch.weight, torch.zeros_like(batch.target)).to(dtype)
    zero = batch.target.new_zeros(())
    target = torch.where(valid, batch.target, zero)
    ensemble = torch.where(valid, members, zero)
    score = crps(ensemble, target).to(dtype)
    error = (torch.where(valid, kernel, zero) - target).abs().to(dtype)
    return torch.stack([(weight * term).sum(dim=(-2, -1)) for term in (score, error, torch.ones_like(error))], dim=-1)


def kernel_prediction(spec: ModelSpec, batch: Batch) -> Tensor:
    """Return the kernel's fine fields of a batch with the bounds of the variables, if any.

    A model without conservation ("none") is also compared with the kernel that conserves cell means.
    """
    mask = torch.isfinite(batch.proposal)
    valid = None if bool(mask.all()) else mask
    fields = []
    for i, variable in enumerate(spec.outputs):
        z, x = batch.proposal[:, i : i + 1], batch.coarse[:, i : i + 1]
        variable_mask = None if valid is None else valid[:, i : i + 1]
        if variable.bounds == (None, None):
            fields.append(additive(z, x, batch.cells.apply_mask(variable_mask)))
        else:
            fields.append(bounded(z, x, batch.cells.apply_mask(variable_mask), variable.bounds))
    return torch.cat(fields, dim=1)


def squared_errors(batch: Batch, model: Tensor, kernel: Tensor) -> Tensor:
    """Return weighted sums of squared errors of the model and the kernel, and of weights, shape (B, V, 3)."""
    valid = torch.isfinite(batch.target) & torch.isfinite(model)
    dtype = working_type(batch.target.device)
    weight = torch.where(valid, batch.weight, torch.zeros_like(batch.target)).to(dtype)
    sums = []
    for prediction in (model, kernel):
        error = torch.where(valid, prediction - batch.target, torch.zeros_like(batch.target)).to(dtype)
        sums.append((weight * error**2).sum(dim=(-2, -1)))
    return torch.stack([*sums, weight.sum(dim=(-2, -1))], dim=-1)


@torch.no_grad()
def kernel_errors(spec: ModelSpec, batch: Batch) -> Tensor:
    """Return the mean square error of the kernel in each patch, shape (B, V)."""
    kernel = kernel_prediction(spec, batch)
    sums = squared_errors(batch, kernel, kernel)
    return (sums[..., 1] / sums[..., 2].clamp_min(1e-300)).to(batch.target.dtype)


def relative_error(sums: Tensor, power: float = 0.5) -> float:
    """Return the geometric mean over sources and outputs of the ratio of model and kernel sums, raised to a power.

    Examples
    --------
    >>> relative_error(torch.tensor([[[1.0, 4.0, 2.0]], [[4.0, 4.0, 1.0]]]))
    0.7071
    """
    valid = (sums[..., 2] > 0) & (sums[..., 1] > 0)
    if not bool(valid.any()):
        # A kernel without error leaves no room for improvement.
        return 1.0 if bool((sums[..., 0] == 0).all()) else math.inf
    return float(torch.exp(power * torch.log((sums[..., 0] / sums[..., 1])[valid]).mean()))
