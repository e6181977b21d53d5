"""Lightning training steps of learned models and of masks of rare events: loss, weight averages, validation."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from downscale.engine.device import working_type
from downscale.errors import InputError
from downscale.fields.conserve import additive, bounded
from downscale.losses.compose import LossContext, WeightedSum
from downscale.losses.probabilistic import event_loss
from downscale.metrics.ensemble import crps
from downscale.metrics.events import LOGITS, EventCounts, calibrated_counts, calibration, logit_counts
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.learned import Learned
from downscale.nn.spec import ModelSpec
from downscale.training.patches import Batch
from downscale.training.progress import Progress, rate, share_done
from downscale.training.schema import EventBlock, Training
from downscale.training.tasks import measure_of, occurs

# Least standard deviation of a patch in the loss, relative to that of the variable.
LEAST_SPREAD = 0.1
# Least mean square error of the kernel on a patch in the loss, relative to that of its source.
LEAST_ERROR = 0.01
# Number of ensemble members for scoring a round.
VALIDATION_MEMBERS = 4
# Uses of random noise.
TRAIN, VALIDATE = 0, 1
# Steps between checks of the loss, because each check waits for the accelerator.
LOOK_EVERY = 20


class TrainedUpscaler(lightning.LightningModule):
    """Learned model in training.

    Attributes
    ----------
    averaged : Learned
        Exponential moving averages of the weights, which are validated and saved.
    score : float
        Geometric mean of the validation errors relative to the kernel's, after each round.
    errors : Tensor, shape (sources, V, 3)
        Weighted sums of squared errors of the model and of the kernel, and of weights.
    """

    def __init__(
        self,
        learned: Learned,
        how: Training,
        loss: WeightedSum,
        spread: tuple[float, ...],
        progress: Progress,
        sources: int = 1,
        typical: Sequence[Sequence[float]] = (),
    ) -> None:
        super().__init__()
        # The memory layout in which convolutions are fastest, on CPUs and accelerators.
        learned.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learned, self.averaged = learned, copy.deepcopy(learned).requires_grad_(False)
        self.how, self.loss, self.spread, self.progress, self.typical = how, loss, spread, progress, typical
        self.score, self.errors, self.sources = math.inf, torch.empty(0), sources
        self.last_loss = torch.tensor(math.nan)
        self._sums: dict[int, Tensor] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with weight decay on all parameters except biases and scales."""
        weights = [p for p in self.learned.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": self.how.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=self.how.learning_rate)

    def forward(self, batch: Batch) -> Tensor:
        """Return the fine fields of a batch with the weights in training."""
        generator = random_numbers(self.how.seed, TRAIN, self.progress.step, self.global_rank)
        return predict(self.learned, batch, self.how.members, generator)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch; errors are in standard deviations of the variable."""
        prediction = self(batch)
        there = torch.isfinite(prediction)
        known = torch.isfinite(batch.target) & (there.all(dim=0) if self.learned.spec.stochastic else there)
        # Missing values are NaN in both and must not reach a gradient.
        prediction = torch.where(known, prediction, torch.zeros_like(prediction))
        target = torch.where(known, batch.target, torch.full_like(batch.target, torch.nan))
        context = self._context(batch, self._scale(batch, known))
        loss, values = self.loss.measure(prediction, target, batch.weight.expand_as(target), context)
        self._require_finite(loss)
        for name, value in {"loss": loss.detach(), **{f"loss_{name}": value for name, value in values.items()}}.items():
            self.log(name, value, prog_bar=name == "loss", logger=False, batch_size=len(target))
        return loss

    def _require_finite(self, loss: Tensor) -> None:
        """Raise an error for a loss that is NaN or infinite, checked every ``LOOK_EVERY`` steps; note the loss."""
        if self.progress.step % LOOK_EVERY == 0 and not bool(loss.isfinite()):
            raise InputError(
                f"expected a finite loss, received {float(loss.detach())} at step {self.progress.step}; try a smaller "
                "learning_rate, or precision 32"
            )
        self.last_loss = loss.detach()

    def _context(self, batch: Batch, scale: Tensor) -> LossContext:
        spec = self.learned.spec
        names = spec.static_channels
        orog = batch.statics[:, names.index("orog")].unsqueeze(1) if "orog" in names else None
        kernels = tuple(m.weight for m in self.learned.modules() if isinstance(m, ConservativeConvTranspose2d))
        return LossContext(
            spacing=batch.spacing, orog=orog, coarse=batch.coarse, cells=batch.cells, kernels=kernels, scale=scale,
            variables=tuple(variable.name for variable in spec.outputs), members=0 if spec.stochastic else None,
        )  # fmt: skip

    def _scale(self, batch: Batch, known: Tensor) -> Tensor:
        spread = batch.target.new_tensor(self.spread).reshape(1, -1, 1, 1)
        if self.how.loss_scale == "variable":
            return spread
        if self.how.loss_scale == "kernel":
            own = kernel_errors(self.learned.spec, batch)
            typical = own.new_tensor(self.typical)[batch.source]
            # The root of the mean of both mean squares, so that neither hard nor easy patches dominate the loss.
            return ((torch.maximum(own, LEAST_ERROR * typical) * typical) ** 0.25).clamp_min(1e-12)[..., None, None]
        weight = batch.weight * known
        total = weight.sum(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        values = torch.where(known, batch.target, torch.zeros_like(batch.target))
        mean = (weight * values).sum(dim=(-2, -1), keepdim=True) / total
        variance = (weight * (values - mean) ** 2).sum(dim=(-2, -1), keepdim=True) / total
        return torch.sqrt(variance + (LEAST_SPREAD * spread) ** 2)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate for the present progress."""
        share = share_done(self.progress, self.how)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate(share, self.how)

    def follow(self) -> None:
        """Update the weight averages, and count the step.

        The callback calls this before it saves a state, because hooks of callbacks precede those of the module.
        """
        self.progress.step += 1
        self.progress.done += 1
        decay = min(self.how.ema, self.progress.step / (self.progress.step + 10))
        with torch.no_grad():
            for average, weight in zip(self.averaged.parameters(), self.learned.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)
            for kept, value in zip(self.averaged.buffers(), self.learned.buffers(), strict=True):
                kept.copy_(value)

    def on_validation_start(self) -> None:
        """Reset the sums of the last round."""
        self._sums = {}

    def validation_step(self, batch: Batch, number: int) -> None:
        """Add up errors of the averaged model and of the kernel with the same constraint, by source.

        Errors are squared errors; for an ensemble, the fair CRPS and the absolute error of the kernel.
        """
        self.averaged.eval()
        kernel = kernel_alone(self.learned.spec, batch)
        if self.learned.spec.stochastic:
            # The same noise in every round, so that scores differ by the weights alone.
            same = random_numbers(self.how.seed, VALIDATE, number, self.global_rank)
            squares = probabilistic_errors(batch, predict(self.averaged, batch, VALIDATION_MEMBERS, same), kernel)
        else:
            squares = squared_errors(batch, predict(self.averaged, batch), kernel)
        for source in batch.source.unique().tolist():
            part = squares[batch.source == source].sum(dim=0)
            self._sums[source] = self._sums.get(source, torch.zeros_like(part)) + part

    def on_validation_epoch_end(self) -> None:
        """Compare the errors of the model with those of the kernel."""
        self.errors = sums = self._summed((len(self.spread), 3))
        self.score = relative_error(sums, measure_of(self.learned.spec).power)
        if not math.isfinite(self.score):
            raise InputError(
                f"expected finite validation errors, received {self.score} at step {self.progress.step}; try a smaller "
                "learning_rate, or precision 32"
            )
        self.log("relative_rmse", self.score, prog_bar=True, logger=False, batch_size=1)

    def _summed(self, shape: tuple[int, ...]) -> Tensor:
        """Return the sums by source over all processes, shape (sources, *shape)."""
        zero = torch.zeros(shape, dtype=torch.float64)
        sums = torch.stack([self._sums.get(i, zero).to(zero) for i in range(self.sources)])
        if self.trainer.world_size > 1:
            reduced = self.trainer.strategy.reduce(sums.to(self.device, torch.float32), reduce_op="sum")
            return torch.as_tensor(reduced).cpu().double()
        return sums


def random_numbers(seed: int, *place: int) -> torch.Generator:
    """Return a random generator for one place of a training, reproducible and distinct from those of other places.

    The place is the use, the step or batch, and the process, so that no two processes share noise.
    """
    words = np.random.SeedSequence([seed, *place]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def predict(learned: Learned, batch: Batch, members: int = 2, generator: torch.Generator | None = None) -> Tensor:
    """Return the fine fields of a batch, shape (B, V, Y, X), or (M, B, V, Y, X) for an ensemble."""
    given = batch.coarse, batch.proposal, batch.cells, _beside(learned, batch), batch.statics, batch.clock
    if not learned.spec.stochastic:
        made: Tensor = learned(*given)
        return made
    shapes = [(len(field), count, *field.shape[-2:])
              for field, count in zip((batch.coarse, batch.proposal), learned.spec.noise, strict=True)]  # fmt: skip
    each = []
    for _ in range(members):
        coarse, fine = (torch.randn(shape, generator=generator).to(batch.coarse) for shape in shapes)
        each.append(learned(*given, noise=(coarse, fine)))
    return torch.stack(each)


def _beside(learned: Learned, batch: Batch) -> Tensor:
    """Return the additional inputs: predictors, and for a compressor the code of the reference."""
    if learned.spec.code is None:
        return batch.predictors
    codes = learned.encode(batch.target, batch.coarse, batch.proposal, batch.cells)
    return torch.cat([batch.predictors, codes], dim=1)


@torch.no_grad()
def probabilistic_errors(batch: Batch, members: Tensor, kernel: Tensor) -> Tensor:
    """Return weighted sums of the fair CRPS of members, of the kernel's absolute errors, and of weights, (B, V, 3)."""
    known = torch.isfinite(batch.target) & torch.isfinite(members).all(dim=0) & torch.isfinite(kernel)
    wide = working_type(batch.target.device)
    weight = torch.where(known, batch.weight, torch.zeros_like(batch.target)).to(wide)
    none = batch.target.new_zeros(())
    target = torch.where(known, batch.target, none)
    made = torch.where(known, members, none)
    score = crps(made, target).to(wide)
    error = (torch.where(known, kernel, none) - target).abs().to(wide)
    return torch.stack([(weight * each).sum(dim=(-2, -1)) for each in (score, error, torch.ones_like(error))], dim=-1)


def kernel_alone(spec: ModelSpec, batch: Batch) -> Tensor:
    """Return the kernel's fine fields of a batch with the bounds of the variables, if any.

    A model without conservation ("none") is also compared with the kernel that conserves cell means.
    """
    mask = torch.isfinite(batch.proposal)
    valid = None if bool(mask.all()) else mask
    each = []
    for i, variable in enumerate(spec.outputs):
        z, x = batch.proposal[:, i : i + 1], batch.coarse[:, i : i + 1]
        one = None if valid is None else valid[:, i : i + 1]
        if variable.bounds == (None, None):
            each.append(additive(z, x, batch.cells.masked(one)))
        else:
            each.append(bounded(z, x, batch.cells.masked(one), variable.bounds))
    return torch.cat(each, dim=1)


def squared_errors(batch: Batch, model: Tensor, kernel: Tensor) -> Tensor:
    """Return weighted sums of squared errors of the model and the kernel, and of weights, shape (B, V, 3)."""
    known = torch.isfinite(batch.target) & torch.isfinite(model)
    wide = working_type(batch.target.device)
    weight = torch.where(known, batch.weight, torch.zeros_like(batch.target)).to(wide)
    sums = []
    for made in (model, kernel):
        error = torch.where(known, made - batch.target, torch.zeros_like(batch.target)).to(wide)
        sums.append((weight * error**2).sum(dim=(-2, -1)))
    return torch.stack([*sums, weight.sum(dim=(-2, -1))], dim=-1)


@torch.no_grad()
def kernel_errors(spec: ModelSpec, batch: Batch) -> Tensor:
    """Return the mean square error of the kernel in each patch, shape (B, V)."""
    made = kernel_alone(spec, batch)
    sums = squared_errors(batch, made, made)
    return (sums[..., 1] / sums[..., 2].clamp_min(1e-300)).to(batch.target.dtype)


def relative_error(sums: Tensor, power: float = 0.5) -> float:
    """Return the geometric mean over sources and outputs of the ratio of model and kernel sums, raised to a power.

    Examples
    --------
    >>> relative_error(torch.tensor([[[1.0, 4.0, 2.0]], [[4.0, 4.0, 1.0]]]))
    0.7071
    """
    some = (sums[..., 2] > 0) & (sums[..., 1] > 0)
    if not bool(some.any()):
        # A kernel without error leaves no room for improvement.
        return 1.0 if bool((sums[..., 0] == 0).all()) else math.inf
    return float(torch.exp(power * torch.log((sums[..., 0] / sums[..., 1])[some]).mean()))


class TrainedMask(TrainedUpscaler):
    """Segmentation model in training; ``score`` is one minus the best event score on the validation split."""

    def __init__(self, *parts: Any, wanted: EventBlock) -> None:
        super().__init__(*parts)
        self.wanted = wanted

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch."""
        logit, event = logits(self.learned, batch), truth_of(self.learned, batch)
        event = torch.where(torch.isfinite(logit), event, torch.nan)
        logit = torch.where(torch.isfinite(event), logit, 0.0)
        loss = event_loss(logit, event, batch.weight, **self.wanted.loss.model_dump())
        self._require_finite(loss)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(event))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Count events by logit and source, and add up squared errors of the kernel's mask."""
        self.averaged.eval()
        event, logit = truth_of(self.averaged, batch), logits(self.averaged, batch)
        rule = self.averaged.spec.event
        assert rule is not None
        kernel = occurs(rule, batch.proposal).to(logit)
        for source in batch.source.unique().tolist():
            here = batch.source == source
            weight = batch.weight[here].expand_as(event[here]).cpu().numpy()
            true = event[here].cpu().numpy()
            made = logit_counts(logit[here].float().cpu().numpy(), true, weight)
            other = EventCounts.of(kernel[here].float().cpu().numpy(), true, weight)
            row = torch.tensor([*made.ravel(), other.brier], dtype=torch.float64)
            self._sums[source] = self._sums.get(source, torch.zeros_like(row)) + row

    def on_validation_epoch_end(self) -> None:
        """Calibrate probabilities, and choose the threshold with the best score over all sources."""
        sums = self._summed((2 * len(LOGITS) + 1,))
        counts = sums[:, :-1].reshape(self.sources, 2, len(LOGITS)).numpy()
        line = calibration(counts.sum(axis=0))
        level, value = calibrated_counts(counts.sum(axis=0), *line).best(self.wanted.decision)
        for model in (self.learned, self.averaged):
            model.decision.fill_(level)  # type: ignore[union-attr, operator]
            model.calibration.copy_(torch.tensor(line))  # type: ignore[union-attr, operator]
        brier = torch.tensor([calibrated_counts(each, *line).brier for each in counts], dtype=torch.float64)
        self.errors = torch.stack([brier, sums[:, -1], sums[:, :-1].sum(dim=1)], dim=-1)[:, None]
        # Without any event all rounds score the same.
        self.score = 1.0 if value != value else 1 - value
        self.log("relative_rmse", self.score, prog_bar=True, logger=False, batch_size=1)


def logits(learned: Learned, batch: Batch) -> Tensor:
    """Return the logits of a batch, shape (B, 1, Y, X)."""
    made: Tensor = learned(
        batch.coarse, batch.proposal, batch.cells, batch.predictors, batch.statics, batch.clock, constrain=False
    )
    return made


def truth_of(learned: Learned, batch: Batch) -> Tensor:
    """Return 1 where the event occurs in the fine field of a batch, 0 where it does not, NaN where missing."""
    rule = learned.spec.event
    assert rule is not None
    return torch.where(torch.isfinite(batch.target), occurs(rule, batch.target).to(batch.target), torch.nan)
