"""What watches over a training: keeps its state, judges rounds, ends it in time (Lightning callbacks; torch)."""

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
    """Keeps what a killed run goes on from, judges each round, and ends the training.

    Parameters
    ----------
    path : Path
        Where the state is kept.
    origin : str
        Recipe and data, as a hash.
    progress : Progress
        Shared with the module and the sampler.
    how : Training
        The recipe's settings.
    say : callable
        Takes a line for people after each round.
    earlier : State, optional
        What an earlier run left.

    Attributes
    ----------
    best : dict of Tensor
        Averaged weights at the best validation.
    errors : Tensor
        Sums of squared errors there, shape (sources, V, 3).
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
        """Go on from an earlier state; the clock begins."""
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
        """Note that a step has begun: what an interrupt finds is half of one."""
        self._between_steps = False

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step; keep the state every so often; end the round where time is up."""
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
        """Say how far the judgement of a round is, where that takes long."""
        if trainer.is_global_zero and not has_bar() and self._pulse.due():
            self.say(f"step {self.progress.step}: {batch_idx + 1} batches of the validation split judged")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Judge the round, and keep the state."""
        module = _upscaler(pl_module)
        self._look_at_clock(trainer, module, True)
        # What is no number is not judged at all: its score would be a good one.
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
        """Keep the state where a run is stopped between two steps; else the last one serves."""
        stopped = isinstance(exception, (KeyboardInterrupt, SystemExit)) or type(exception).__name__ in STOPS
        if stopped and self._between_steps:
            self.save(trainer, pl_module)

    def save(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the state; one process does."""
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
        """Take in the time that is spent; of several processes that of the slowest, when they look ``together``.

        Clocks differ, and whatever depends on time must be the same for all. Between two looks no time passes.
        """
        own = self._before + self._clock() - self._begun
        if trainer.world_size == 1 or self.how.max_time is None:
            self.progress.seconds = own
        elif together:
            seconds = torch.tensor(own, dtype=torch.float32, device=module.device)
            self.progress.seconds = float(torch.as_tensor(trainer.strategy.reduce(seconds, reduce_op="max")))


# Processes compare their clocks every so many steps, and after each round.
AGREE_EVERY = 10
# The errors at the best validation travel with its weights.
ERRORS = "__errors__"
# What time a training is given.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
# What the trainer raises where the system asks it to end.
STOPS = ("SIGTERMException", "Terminated")


class Bar(RichProgressBar):
    """A bar over the steps of a round, which the loader does not tell."""

    def __init__(self, how: Training) -> None:
        super().__init__(leave=False)
        self._steps = how.round

    @property
    def total_train_batches(self) -> int | float:
        """Steps of a round."""
        return self._steps


def bars(how: Training) -> list[lightning.Callback]:
    """Return the progress bar, none where the output is no terminal."""
    return [Bar(how)] if has_bar() else []


def _upscaler(module: Any) -> TrainedUpscaler:
    assert isinstance(module, TrainedUpscaler)
    return module
