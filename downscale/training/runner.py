"""Lightning trainer without checkpoints or messages of its own."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning

from downscale.engine.device import has_fast_bf16, is_cpu
from downscale.errors import InputError, OptionError
from downscale.training.datamodule import PatchData
from downscale.training.keeper import Keeper, bars
from downscale.training.module import TrainedUpscaler
from downscale.training.schema import Training


def run(how: Training, module: TrainedUpscaler, data: PatchData, keeper: Keeper, folder: Path) -> lightning.Trainer:
    """Train to the end and return the trainer.

    Raises
    ------
    OptionError
        If the library does not accept the accelerator, devices or strategy.
    KeyboardInterrupt
        If the user stops the training; the keeper has saved the state.
    """
    bar = bars(how)
    settings: dict[str, Any] = {
        **{key: getattr(how, key) for key in ("accelerator", "devices", "num_nodes", "strategy")},
        "precision": "bf16-mixed" if _precision(how) == "bf16" else "32-true",
        "gradient_clip_val": how.clip,
        "max_epochs": -1,  # the progress counts rounds across runs
        "logger": _logger(how.logger, folder),
        "callbacks": [keeper, *bar],
        "enable_progress_bar": bool(bar),
        "enable_checkpointing": False,  # the library's checkpoints are pickles
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "plugins": _environment(),
        "default_root_dir": folder,
    }
    with quiet():
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
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if type(end) is not SystemExit:
            raise
        raise KeyboardInterrupt from None
    finally:
        if main and before is not None:
            signal.signal(signal.SIGINT, before)


def _environment() -> list[Any]:
    """Disable the library's own checkpoints, which are pickles, when a cluster requeues the job."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    with quiet():
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
def quiet() -> Iterator[None]:
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
