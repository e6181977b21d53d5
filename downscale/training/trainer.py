"""Lightning trainer, data loaders and callback of a training."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from downscale.engine.device import has_fast_bf16, is_cpu
from downscale.errors import InputError, OptionError
from downscale.training.module import TrainedUpscaler
from downscale.training.patches import PatchSet, collate
from downscale.training.progress import (
    LineTimer,
    Progress,
    State,
    ended,
    has_terminal,
    moments_of,
    restore_moments,
    round_line,
    step_line,
    steps_of_round,
    write_state,
)
from downscale.training.sampling import PatchIndex, PatchSampler
from downscale.training.schema import Training
from downscale.training.tasks import measure_of

Say = Callable[[str], None]
# Steps between synchronisations of the processes' clocks, which also follow each round.
AGREE_EVERY = 10
# Key prefix of the errors at the best validation, which are stored with its weights.
ERRORS = "__errors__"
# Clocks for the time limit of a training.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
# Exceptions that the trainer raises when the system ends the process.
STOPS = ("SIGTERMException", "Terminated")


class Rounds(torch.utils.data.Sampler[list[PatchIndex]]):
    """Batches of one process in the current round; an interrupted round resumes at its next batch.

    The sampler has no length, because rounds differ in length.
    """

    def __init__(self, draws: PatchSampler, how: Training, progress: Progress, rank: int, world: int) -> None:
        self.draws, self.how, self.progress, self.rank, self.world = draws, how, progress, rank, world

    def __iter__(self) -> Iterator[list[PatchIndex]]:
        batch, first = self.how.batch, self.progress.done
        keys = self.draws.round(self.progress.round, self.how.round * batch * self.world)[self.rank :: self.world]
        for number in range(first, first + steps_of_round(self.progress, self.how)):
            yield keys[number * batch : (number + 1) * batch]


class PatchData(lightning.LightningDataModule):
    """Training and validation patches of all sources."""

    def __init__(
        self,
        patches: PatchSet,
        draws: PatchSampler,
        held: list[PatchIndex],
        how: Training,
        progress: Progress,
        factor: tuple[int, int],
    ) -> None:
        super().__init__()
        self.patches, self.draws, self.held, self.how, self.progress = patches, draws, held, how, progress
        self.factor = factor

    @property
    def _processes(self) -> tuple[int, int]:
        """Number of this process, and of all processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of all rounds."""
        rounds = Rounds(self.draws, self.how, self.progress, *self._processes)
        return self._loader(self.patches, batch_sampler=rounds)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of validation patches."""
        rank, world = self._processes
        keys = self.held[rank::world]
        batches = [keys[i : i + self.how.batch] for i in range(0, len(keys), self.how.batch)]
        return self._loader(self.patches.tiled(), batch_sampler=batches)

    def _loader(self, patches: PatchSet, **given: Any) -> DataLoader[Any]:
        workers = self.how.workers
        return DataLoader(
            patches,
            num_workers=workers,
            collate_fn=partial(collate, factor=self.factor),
            persistent_workers=workers > 0,
            # Forked processes must not share open files.
            multiprocessing_context="spawn" if workers else None,
            # Each loader takes a random number: not from the generator that a resumed run restores.
            generator=torch.Generator().manual_seed(self.how.seed),
            **given,
        )


class StateCallback(lightning.Callback):
    """Callback that saves the state for resuming, scores each round, and ends the training.

    ``best`` has the averaged weights at the best validation; ``errors``, shape (sources, V, 3), the sums of errors
    there.
    """

    def __init__(
        self, path: Path, origin: str, progress: Progress, how: Training, say: Say, earlier: State | None = None
    ) -> None:
        self.path, self.origin, self.progress, self.how, self.say = path, origin, progress, how, say
        self.earlier, self.best, self.errors = earlier, dict[str, Tensor](), torch.empty(0)
        self._clock = CLOCKS[how.clock]
        self._begun, self._saved = self._clock(), time.monotonic()
        self._before = progress.seconds
        self._between_steps, self._timer = False, LineTimer()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Restore an earlier state, and start the clock."""
        module: TrainedUpscaler = pl_module
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
        module: TrainedUpscaler = pl_module
        module.finish_step()
        self._look_at_clock(trainer, module, self.progress.step % AGREE_EVERY == 0)
        self._between_steps = self.progress.done < self.how.round
        is_finished = ended(self.progress, self.how)
        trainer.should_stop = trainer.should_stop or is_finished
        if trainer.is_global_zero and not has_terminal() and self._timer.due():
            self.say(step_line(self.progress, float(module.last_loss), self.how))
        due = time.monotonic() - self._saved >= self.how.save_every
        if due and self._between_steps and not is_finished:
            self.save(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Print the progress of a long validation."""
        if trainer.is_global_zero and not has_terminal() and self._timer.due():
            self.say(f"step {self.progress.step}: {batch_idx + 1} batches of the validation split scored")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Score the round, and save the state."""
        module: TrainedUpscaler = pl_module
        self._look_at_clock(trainer, module, True)
        # The score ignores NaN, so weights that are NaN would score well.
        if not all(bool(weight.isfinite().all()) for weight in module.averaged.parameters()):
            raise InputError(
                f"expected finite weights, received NaN or infinite ones at step {self.progress.step}; try a smaller "
                "learning_rate, or precision 32"
            )
        is_best = self.progress.record_score(module.score)
        if is_best:
            self.best = {k: v.detach().cpu().clone() for k, v in module.averaged.state_dict().items()}
            self.errors = module.errors
        if trainer.is_global_zero:
            measure = measure_of(module.learned.spec).line
            self.say(round_line(self.progress, module.score, is_best, self.how, measure))
            self._timer.said()
            self._log(trainer, module)
        trainer.should_stop = ended(self.progress, self.how)
        self.save(trainer, module)

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Save the state if a run stops between two steps; otherwise the last saved state remains."""
        stopped = isinstance(exception, (KeyboardInterrupt, SystemExit)) or type(exception).__name__ in STOPS
        if stopped and self._between_steps:
            self.save(trainer, pl_module)

    def save(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the state, in the first process only."""
        self._saved = time.monotonic()
        if not trainer.is_global_zero:
            return
        module: TrainedUpscaler = pl_module
        best = {**self.best, ERRORS: self.errors} if self.best else {}
        state = State(
            weights=module.learned.state_dict(), averages=module.averaged.state_dict(), best=best,
            moments=moments_of(trainer.optimizers[0]), progress=self.progress, origin=self.origin,
            random=torch.get_rng_state(),
        )  # fmt: skip
        write_state(self.path, state)

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
        elapsed = self._before + self._clock() - self._begun
        if trainer.world_size == 1 or self.how.max_time is None:
            self.progress.seconds = elapsed
        elif together:
            seconds = torch.tensor(elapsed, dtype=torch.float32, device=module.device)
            self.progress.seconds = float(torch.as_tensor(trainer.strategy.reduce(seconds, reduce_op="max")))


class Bar(RichProgressBar):
    """Progress bar over the steps of a round, whose number the loader does not provide."""

    def __init__(self, how: Training) -> None:
        super().__init__(leave=False)
        self._steps = how.round

    @property
    def total_train_batches(self) -> int | float:
        """Steps of a round."""
        return self._steps


def run(
    how: Training, module: TrainedUpscaler, data: PatchData, callback: StateCallback, folder: Path
) -> lightning.Trainer:
    """Train to the end and return the trainer."""
    settings: dict[str, Any] = {
        **{key: getattr(how, key) for key in ("accelerator", "devices", "num_nodes", "strategy")},
        "precision": "bf16-mixed" if _precision(how) == "bf16" else "32-true",
        "gradient_clip_val": how.clip,
        "max_epochs": -1,  # the progress counts rounds across runs
        "logger": _logger(how.logger, folder),
        "callbacks": [callback, *([Bar(how)] if has_terminal() else [])],
        "enable_progress_bar": has_terminal(),
        "enable_checkpointing": False,  # the library's checkpoints are pickles
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "plugins": _environment(),
        "default_root_dir": folder,
    }
    with silence_lightning():
        try:
            trainer = lightning.Trainer(**settings)
        except (ValueError, RuntimeError, TypeError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise OptionError(
                f"expected accelerator, devices and strategy as Lightning has them, received: {reason}"
            ) from None
        with interruptible():
            trainer.fit(module, datamodule=data)
    return trainer


def _precision(how: Training) -> str:
    """Return the precision of a training: 32 bits on a processor without fast bf16."""
    on_cpu = how.accelerator == "cpu" or (how.accelerator == "auto" and is_cpu())
    if how.precision == "bf16" and on_cpu and not has_fast_bf16():
        warnings.warn(
            "training.precision: this processor has no fast bf16; the training runs in float32 instead", stacklevel=2
        )
        return "32"
    return how.precision


@contextmanager
def interruptible() -> Iterator[None]:
    """Restore the handler of Ctrl-C, which the library replaces by one that ends the program."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if type(end) is not SystemExit:
            raise
        raise KeyboardInterrupt from None
    finally:
        if is_main and handler is not None:
            signal.signal(signal.SIGINT, handler)


def _environment() -> list[Any]:
    """Disable the library's own checkpoints, which are pickles, when a cluster requeues the job."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    with silence_lightning():
        return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _logger(kind: str | None, folder: Path) -> Any:
    """Return a logger with a new version for each run; False for none."""
    if kind is None:
        return False
    if kind == "csv":
        from lightning.pytorch.loggers import CSVLogger

        return CSVLogger(folder, name="logs")
    try:
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="logs")
    except ModuleNotFoundError:
        raise InputError(
            "expected the library tensorboard for its logs, received an installation without it; pip install "
            "tensorboard, or choose logger: csv"
        ) from None


@contextmanager
def silence_lightning() -> Iterator[None]:
    """Silence the library's tips, summaries, and warnings about deliberate settings."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # On a login node, or within one node, there is nothing to distribute.
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
