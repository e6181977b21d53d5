"""The training loop: rounds, weight averages, learning rate, logs, saved states, resuming, early stopping.

A task supplies steps and validation. Device, processes and precision are those of Lightning's Fabric.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn

from downscale.engine.device import has_fast_bf16, is_cpu
from downscale.errors import InputError, OptionError
from downscale.process.interrupts import Terminated, defer_signals, raise_if_signalled, raise_on_fatal_signals
from downscale.training.progress import (
    STATE,
    LineTimer,
    Progress,
    fraction_done,
    has_ended,
    has_terminal,
    learning_rate,
    moments_of,
    read_state,
    restore_moments,
    step_line,
    write_state,
)
from downscale.training.schema import Training

Say = Callable[[str], None]
# Steps between synchronisations of the processes' clocks, which also follow each round.
AGREE_EVERY = 10
# Key of the errors at the best validation, which are stored with its weights.
ERRORS = "__errors__"
# Clocks for the time limit of a training.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
LOGGERS = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}


class Diverged(InputError):
    """Losses, errors or weights became NaN or infinite."""


class Loop:
    """A training from its first to its last step, or from the step of a saved state.

    A task has networks: ``model``, whose weights are averaged in ``averaged``, and ``networks``, all of the state; and
    ``optimizers``, to whose parameter groups ``relative_rate`` scales the learning rate. It supplies

    - ``setup(fabric)``, which moves the networks to the device,
    - ``batches(progress, fabric)``, those that remain of the round,
    - ``step(batch, number)``, which updates the weights and returns the values to log, first the loss,
    - ``validate(say)``, the score of the averaged weights (less is better) or None; it sets ``errors``, shape
      (sources, V, 3),
    - ``round_line(progress, row, is_best)``, a progress line on the round that ended,
    - ``averages_lag``, the steps over which the decay of the averages rises to that of the recipe, and ``check_every``,
      the steps between checks of the loss, because each check waits for the accelerator.

    ``best`` has the averaged weights at the best validation, ``errors`` the sums of errors there. ``origin`` identifies
    recipe, settings and data; a state of another origin is refused, except in processes other than the first.
    """

    def __init__(self, task: Any, settings: Training, folder: Path, origin: str | None, say: Say) -> None:
        self.task, self.settings, self.origin, self.say = task, settings, origin, say
        self.state, self.progress = folder / STATE, Progress()
        self.best, self.errors = dict[str, Tensor](), torch.empty(0)
        self._timer, self._between_steps = LineTimer(), False
        self.fabric = open_fabric(settings, folder)
        task.setup(self.fabric)

    def run(self, resume: bool = False) -> None:
        """Train to the end; a signal that would end the process raises Terminated, after the state is saved."""
        with raise_on_fatal_signals():
            self._run(resume)

    def _run(self, resume: bool) -> None:
        torch.manual_seed(self.settings.seed)
        if resume and self.state.exists():
            self.restore()
            self.say(f"resumes from step {self.progress.step}")
        self._clock = CLOCKS[self.settings.clock]
        self._start, self._saved = self._clock() - self.progress.seconds, time.monotonic()
        try:
            # The last round may have been interrupted before its validation.
            while not has_ended(self.progress, self.settings) or self.progress.done:
                self._train_round()
        except BaseException as error:
            # Within a step, the last saved state remains.
            if isinstance(error, (KeyboardInterrupt, SystemExit, Terminated)) and self._between_steps:
                self.save()
            raise

    def _train_round(self) -> None:
        task, settings, progress, row = self.task, self.settings, self.progress, dict[str, Tensor]()
        with _show_bar(settings.round) as show:
            batches = task.batches(progress, self.fabric)
            for batch in () if has_ended(progress, settings) else batches:
                # A signal waits for the end of the step, so that the state is saved.
                with defer_signals():
                    row = self._take_step(batch)
                raise_if_signalled()
                is_finished = has_ended(progress, settings)
                line = step_line(progress, row, settings) if self._timer.due() else None
                show(line) if show else self.say(line) if line else None
                if is_finished:
                    break
                if progress.done < settings.round and time.monotonic() - self._saved >= settings.save_every:
                    self.save()
        self._end_round({name: float(value) for name, value in row.items()})

    def _take_step(self, batch: Any) -> dict[str, Tensor]:
        """Update weights, averages and progress; return the values to log."""
        task, settings, progress = self.task, self.settings, self.progress
        self._between_steps = False
        for group in (group for optimizer in task.optimizers for group in optimizer.param_groups):
            group["lr"] = group.get("relative_rate", 1.0) * learning_rate(fraction_done(progress, settings), settings)
        row = dict(task.step(self.fabric.to_device(batch), progress.step))
        if progress.step % task.check_every == 0:
            self._require_finite({name: float(value) for name, value in row.items()})
        progress.step, progress.done = progress.step + 1, progress.done + 1
        decay = min(settings.ema, progress.step / (progress.step + task.averages_lag))
        update_averages(task.averaged, task.model, decay)
        self._update_clock(progress.step % AGREE_EVERY == 0)
        self._between_steps = True
        return row

    def _end_round(self, row: dict[str, float]) -> None:
        """Validate, log, and save the state; ``row`` is empty if the round resumed after its last step."""
        task, progress = self.task, self.progress
        score = task.validate(self.say)
        self._update_clock(True)
        self._between_steps = False
        # A score ignores NaN, so weights that are NaN would score well.
        is_finite = all(bool(weight.isfinite().all()) for weight in task.averaged.parameters())
        self._require_finite({"validation error": score or 0.0, "weights": 0.0 if is_finite else float("nan")})
        is_best = progress.record_score(score)
        if is_best:
            self.best = {name: value.detach().cpu().clone() for name, value in task.averaged.state_dict().items()}
            self.errors = task.errors
        self.say(task.round_line(progress, row, is_best))
        self._timer.restart()
        if score is not None:
            rates = {"learning_rate": task.optimizers[0].param_groups[0]["lr"]} if row else {}
            row = {"relative_rmse": score, "seconds": progress.seconds, **rates, **row}
        if row:
            self.fabric.log_dict(row, progress.step)
        for logger in self.fabric.loggers:
            logger.save()
        self.save()

    def _require_finite(self, values: Mapping[str, float]) -> None:
        """Raise an error for values that are NaN or infinite, before the state is replaced."""
        faults = [f"{name} {value}" for name, value in values.items() if not abs(value) < float("inf")]
        if faults:
            hint = f"; the last good state is {self.state}, resume from it" if self.state.exists() else ""
            raise Diverged(
                f"expected finite losses, errors and weights, received {', '.join(faults)} at step "
                f"{self.progress.step}; try a smaller learning rate, or precision 32{hint}"
            )

    def _update_clock(self, is_shared: bool) -> None:
        """Update the time spent; with ``is_shared``, to that of the slowest process, so that all processes agree."""
        elapsed = self._clock() - self._start
        if self.fabric.world_size == 1 or self.settings.max_time is None:
            self.progress.seconds = elapsed
        elif is_shared:
            slowest = self.fabric.all_reduce(torch.tensor(elapsed), reduce_op="max")
            self.progress.seconds = float(torch.as_tensor(slowest))

    def save(self) -> None:
        """Write the state, in the first process only."""
        self._saved = time.monotonic()
        if self.fabric.is_global_zero:
            groups = {
                "weights": self.task.networks.state_dict(),
                "averages": self.task.averaged.state_dict(),
                "best": {**self.best, ERRORS: self.errors} if self.best else {},
                **{f"moments{i}": moments_of(optimizer) for i, optimizer in enumerate(self.task.optimizers)},
                "random": {"": torch.get_rng_state()},
            }
            write_state(self.state, groups, self.progress, str(self.origin))

    def restore(self) -> None:
        """Resume from a state that :meth:`save` wrote."""
        groups, self.progress = read_state(self.state, self.origin)
        try:
            self.task.networks.load_state_dict(groups["weights"])
            self.task.averaged.load_state_dict(groups["averages"])
        except (KeyError, RuntimeError):
            raise InputError(
                f"expected the networks that {self.state} was begun with, received others; remove it"
            ) from None
        for i, optimizer in enumerate(self.task.optimizers):
            restore_moments(optimizer, groups.get(f"moments{i}", {}))
        self.best = groups.get("best", {})
        self.errors = self.best.pop(ERRORS, torch.empty(0))
        torch.set_rng_state(groups["random"][""])


@torch.no_grad()
def update_averages(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Update exponential moving averages of a model's weights, and copy its buffers."""
    for average, weight in zip(averaged.parameters(), model.parameters(), strict=True):
        average.lerp_(weight, 1 - decay)
    for buffer, value in zip(averaged.buffers(), model.buffers(), strict=True):
        buffer.copy_(value)


@contextmanager
def _show_bar(steps: int) -> Iterator[Callable[[str | None], None] | None]:
    """Show a bar over the steps of a round on a terminal; yield a function that advances it, and None elsewhere."""
    if not has_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("round", total=steps)
        yield lambda line: bar.update(task, advance=1, description=line)


def open_fabric(settings: Training, folder: Path) -> Fabric:
    """Return the processes of a training on their devices, with its precision and loggers."""
    on_cpu = settings.accelerator == "cpu" or (settings.accelerator == "auto" and is_cpu())
    is_mixed = settings.precision == "bf16"
    if is_mixed and on_cpu and not has_fast_bf16():
        warnings.warn(
            "training.precision: this processor has no fast bf16; the training runs in float32 instead", stacklevel=2
        )
        is_mixed = False
    level = logging.root.manager.disable
    logging.disable(logging.INFO)  # the library's tips and summaries
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            # On a login node, or within one node, there is nothing to distribute.
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            fabric = Fabric(
                accelerator=settings.accelerator, devices=settings.devices, num_nodes=settings.num_nodes,
                strategy=settings.strategy, precision="bf16-mixed" if is_mixed else "32-true",
                loggers=[] if settings.logger is None else [LOGGERS[settings.logger](folder, name="logs")],
            )  # fmt: skip
            fabric.launch()
    except ModuleNotFoundError:
        raise InputError(
            "expected the library tensorboard for its logs, received an installation without it; pip install "
            "tensorboard, or choose logger: csv"
        ) from None
    except Exception as error:
        reason = " ".join(str(error).split())
        raise OptionError(
            f"expected accelerator, devices and strategy as Lightning has them, received: {reason}"
        ) from None
    finally:
        logging.disable(level)
    return fabric
