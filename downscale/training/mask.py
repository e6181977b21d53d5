"""Training step of a mask of a rare event: loss on logits, and calibration in validation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from downscale.errors import InputError
from downscale.losses.probabilistic import event_loss
from downscale.metrics.events import LOGITS, EventCounts, calibrated_counts, calibration, logit_counts
from downscale.nn.learned import Learned
from downscale.training.module import LOOK_EVERY, TrainedUpscaler
from downscale.training.patches import Batch
from downscale.training.schema import EventBlock


class TrainedMask(TrainedUpscaler):
    """Segmentation model in training; ``score`` is one minus the best event score on the validation split.

    Parameters
    ----------
    wanted : EventBlock
        Loss, and the score that selects the decision threshold.
    """

    def __init__(self, *parts: Any, wanted: EventBlock) -> None:
        super().__init__(*parts)
        self.wanted = wanted

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch."""
        logit, event = logits(self.learned, batch), truth_of(self.learned, batch)
        event = torch.where(torch.isfinite(logit), event, torch.nan)
        logit = torch.where(torch.isfinite(event), logit, 0.0)
        loss = event_loss(logit, event, batch.weight, **self.wanted.loss.model_dump())
        if self.progress.step % LOOK_EVERY == 0 and not bool(loss.isfinite()):
            raise InputError(
                f"expected a finite loss, received {float(loss.detach())} at step {self.progress.step}; try a smaller "
                "learning_rate, or precision 32"
            )
        self.last_loss = loss.detach()
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(event))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Count events by logit and source, and add up squared errors of the kernel's mask."""
        self.averaged.eval()
        event, logit = truth_of(self.averaged, batch), logits(self.averaged, batch)
        rule = self.averaged.spec.event
        assert rule is not None
        kernel = (rule.sign * batch.proposal >= rule.sign * rule.threshold).to(logit)
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
        zero = torch.zeros(2 * len(LOGITS) + 1, dtype=torch.float64)
        sums = torch.stack([self._sums.get(i, zero) for i in range(self.sources)])
        if self.trainer.world_size > 1:
            summed = self.trainer.strategy.reduce(sums.to(self.device, torch.float32), reduce_op="sum")
            sums = torch.as_tensor(summed).cpu().double()
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
    there = rule.sign * batch.target >= rule.sign * rule.threshold
    return torch.where(torch.isfinite(batch.target), there.to(batch.target), torch.nan)
