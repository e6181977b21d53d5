"""Lightning callbacks that save the state of a training, score its rounds and end it in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

from downscale.errors import InputError
from downscale.training.module import TrainedUpscaler
from downscale.training.progress import Progress, ended, step_words, words
from downscale.training.pulse import Pulse, has_bar
from downscale.training.schema import Training
from downscale.training.state import State, moments_of, restore_moments, write_state

Say = Callable[[str], None]


class Keeper(lightning.Callback):
    """Callback that saves the state for resuming, scores each round, and ends the training.

    Parameters
    ----------
    path : Path
        Path of the state.
    origin : str
        Hash of recipe and data.
    progress : Progress
        Shared with the module and the sampler.
    how : Training
        The recipe's settings.
    say : callable
        Receives a progress line after each round.
    earlier : State, optional
        State of an interrupted run.

    Attributes
    ----------
    best : dict of Tensor
        Averaged weights at the best validation.
    errors : Tensor
        Weighted sums of squared errors there, shape (sources, V, 3).
    """

    def __init__(
        self, path: Path, origin: str, progress: Progress, how: Training, say: Say, earlier: State | None = None
    ) -> None:
        self.path, self.origin, self.progress, self.how, self.say = path, origin, progress, how, say
        self.earlier, self.best, self.errors = earlier, dict[str, Tensor](), torch.empty(0)
        self._clock = CLOCKS[how.clock]
        self._begun, self._saved = self._clock(), time.monotonic()
        self._before = progress.seconds
        self._between_steps, self._pulse = False, Pulse()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Restore an earlier state, and start the clock."""
        module = _upscaler(pl_module)
        if self.earlier is not None:
            module.learned.load_state_dict(dict(self.earlier.weights))
            module.averaged.load_state_dict(dict(self.earlier.averages))
            restore_moments(trainer.optimizers[0], self.earlier.moments)
            torch.set_rng_state(self.earlier.random)
            self.best = dict(self.earlier.best)
            self.errors = self.best.pop(ERRORS, torch.empty(0))
        self._begun, self._saved = self._clock(), time.monotonic()
        self._before = self.progress.seconds

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Mark the step as incomplete, in case of an interrupt."""
        self._between_steps = False

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step; save the state periodically; end the round when the time is up."""
        module = _upscaler(pl_module)
        module.follow()
        self._look_at_clock(trainer, module, self.progress.step % AGREE_EVERY == 0)
        self._between_steps = self.progress.done < self.how.round
        over = ended(self.progress, self.how)
        trainer.should_stop = trainer.should_stop or over
        if trainer.is_global_zero and not has_bar() and self._pulse.due():
            self.say(step_words(self.progress, float(module.last_loss), self.how))
        due = time.monotonic() - self._saved >= self.how.save_every
        if due and self._between_steps and not over:
            self.save(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Print the progress of a long validation."""
        if trainer.is_global_zero and not has_bar() and self._pulse.due():
            self.say(f"step {self.progress.step}: {batch_idx + 1} batches of the validation split scored")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Score the round, and save the state."""
        module = _upscaler(pl_module)
        self._look_at_clock(trainer, module, True)
        # The score ignores NaN, so weights that are NaN would score well.
        if not all(bool(weight.isfinite().all()) for weight in module.averaged.parameters()):
            raise InputError(
                f"expected finite weights, received NaN or infinite ones at step {self.progress.step}; try a smaller "
                "learning_rate, or precision 32"
            )
        better = self.progress.judged(module.score)
        if better:
            self.best = {k: v.detach().cpu().clone() for k, v in module.averaged.state_dict().items()}
            self.errors = module.errors
        if trainer.is_global_zero:
            spec = module.learned.spec
            kind = "mask" if spec.event is not None else "ensemble" if spec.stochastic else "field"
            self.say(words(self.progress, module.score, better, self.how, kind))
            self._pulse.said()
            self._log(trainer, module)
        trainer.should_stop = ended(self.progress, self.how)
        self.save(trainer, module)

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Save the state if a run stops between two steps; otherwise the last saved state remains."""
        stopped = isinstance(exception, (KeyboardInterrupt, SystemExit)) or type(exception).__name__ in STOPS
        if stopped and self._between_steps:
            self.save(trainer, pl_module)

    def save(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the state, in the first process only."""
        self._saved = time.monotonic()
        if not trainer.is_global_zero:
            return
        module = _upscaler(pl_module)
        best = {**self.best, ERRORS: self.errors} if self.best else {}
        made = State(
            weights=module.learned.state_dict(), averages=module.averaged.state_dict(), best=best,
            moments=moments_of(trainer.optimizers[0]), progress=self.progress, origin=self.origin,
            random=torch.get_rng_state(),
        )  # fmt: skip
        write_state(self.path, made)

    def _log(self, trainer: lightning.Trainer, module: TrainedUpscaler) -> None:
        values = {"relative_rmse": module.score, "seconds": self.progress.seconds}
        values["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        values |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("loss")}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self.progress.step)
            logger.save()

    def _look_at_clock(self, trainer: lightning.Trainer, module: TrainedUpscaler, together: bool) -> None:
        """Update the time spent; with ``together``, to that of the slowest process.

        Clocks differ between processes, and decisions that depend on time must agree. The time is constant between two
        synchronisations.
        """
        own = self._before + self._clock() - self._begun
        if trainer.world_size == 1 or self.how.max_time is None:
            self.progress.seconds = own
        elif together:
            seconds = torch.tensor(own, dtype=torch.float32, device=module.device)
            self.progress.seconds = float(torch.as_tensor(trainer.strategy.reduce(seconds, reduce_op="max")))


# Steps between synchronisations of the processes' clocks, which also follow each round.
AGREE_EVERY = 10
# Key prefix of the errors at the best validation, which are stored with its weights.
ERRORS = "__errors__"
# Clocks for the time limit of a training.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
# Exceptions that the trainer raises when the system ends the process.
STOPS = ("SIGTERMException", "Terminated")


class Bar(RichProgressBar):
    """Progress bar over the steps of a round, whose number the loader does not provide."""

    def __init__(self, how: Training) -> None:
        super().__init__(leave=False)
        self._steps = how.round

    @property
    def total_train_batches(self) -> int | float:
        """Steps of a round."""
        return self._steps


def bars(how: Training) -> list[lightning.Callback]:
    """Return the progress bar, or an empty list if the output is not a terminal."""
    return [Bar(how)] if has_bar() else []


def _upscaler(module: Any) -> TrainedUpscaler:
    assert isinstance(module, TrainedUpscaler)
    return module
