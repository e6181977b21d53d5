"""Lightning training steps of learned models and of masks of rare events: loss, weight averages, validation."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from downscale.errors import InputError
from downscale.losses.compose import LossContext, WeightedSum
from downscale.losses.probabilistic import event_loss
from downscale.metrics.events import LOGITS, EventCounts, calibrated_counts, calibration, logit_counts
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.learned import Learned
from downscale.training.patches import Batch
from downscale.training.predict import (
    VALIDATION_MEMBERS,
    kernel_alone,
    kernel_errors,
    logits,
    predict,
    probabilistic_errors,
    random_numbers,
    relative_error,
    squared_errors,
    truth_of,
    update_averages,
)
from downscale.training.progress import Progress, rate, share_done
from downscale.training.schema import EventBlock, Training
from downscale.training.tasks import measure_of, occurs

# Least standard deviation of a patch in the loss, relative to that of the variable.
LEAST_SPREAD = 0.1
# Least mean square error of the kernel on a patch in the loss, relative to that of its source.
LEAST_ERROR = 0.01
# Uses of random noise.
TRAIN, VALIDATE = 0, 1
# Steps between checks of the loss, because each check waits for the accelerator.
LOOK_EVERY = 20


class TrainedUpscaler(lightning.LightningModule):
    """Learned model in training; moving averages of its weights, ``averaged``, are validated and saved.

    After each round, ``score`` is the geometric mean of the validation errors relative to the kernel's, and ``errors``,
    shape (sources, V, 3), has weighted sums of squared errors of the model and of the kernel, and of weights.
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
        finite = torch.isfinite(prediction)
        valid = torch.isfinite(batch.target) & (finite.all(dim=0) if self.learned.spec.stochastic else finite)
        # Missing values are NaN in both and must not reach a gradient.
        prediction = torch.where(valid, prediction, torch.zeros_like(prediction))
        target = torch.where(valid, batch.target, torch.full_like(batch.target, torch.nan))
        context = self._context(batch, self._scale(batch, valid))
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
            errors = kernel_errors(self.learned.spec, batch)
            typical = errors.new_tensor(self.typical)[batch.source]
            # The root of the mean of both mean squares, so that neither hard nor easy patches dominate the loss.
            return ((torch.maximum(errors, LEAST_ERROR * typical) * typical) ** 0.25).clamp_min(1e-12)[..., None, None]
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

    def finish_step(self) -> None:
        """Update the weight averages, and count the step.

        The callback calls this before it saves a state, because hooks of callbacks precede those of the module.
        """
        self.progress.step += 1
        self.progress.done += 1
        update_averages(self.averaged, self.learned, min(self.how.ema, self.progress.step / (self.progress.step + 10)))

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
            noise = random_numbers(self.how.seed, VALIDATE, number, self.global_rank)
            squares = probabilistic_errors(batch, predict(self.averaged, batch, VALIDATION_MEMBERS, noise), kernel)
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
            in_source = batch.source == source
            weight = batch.weight[in_source].expand_as(event[in_source]).cpu().numpy()
            events = event[in_source].cpu().numpy()
            counts = logit_counts(logit[in_source].float().cpu().numpy(), events, weight)
            kernel_counts = EventCounts.of(kernel[in_source].float().cpu().numpy(), events, weight)
            row = torch.tensor([*counts.ravel(), kernel_counts.brier], dtype=torch.float64)
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
        brier = torch.tensor([calibrated_counts(row, *line).brier for row in counts], dtype=torch.float64)
        self.errors = torch.stack([brier, sums[:, -1], sums[:, :-1].sum(dim=1)], dim=-1)[:, None]
        # Without any event all rounds score the same.
        self.score = 1.0 if value != value else 1 - value
        self.log("relative_rmse", self.score, prog_bar=True, logger=False, batch_size=1)
