"""State of a training for resuming: weights, averages, optimiser moments, progress and random numbers.

The state is one safetensors file, written atomically; reading it runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from downscale.errors import InputError
from downscale.models.tensors import read_tensors, read_texts, write_tensors
from downscale.training.progress import Progress

if TYPE_CHECKING:
    from torch.optim import Optimizer

FORMAT, WHAT = "downscale-training", "training state"
RANDOM = "random"


@dataclass(frozen=True, eq=False)
class State:
    """State of a training after a step.

    Attributes
    ----------
    weights, averages, best : dict of Tensor
        Network weights, their running averages, and the averages at the best validation (empty before the first).
    moments : dict of Tensor
        Moments of the optimiser, by number of the parameter and name.
    progress : Progress
        Progress of the training.
    origin : str
        Hash of its recipe and data.
    random : Tensor
        State of the generator of random numbers on the CPU.
    """

    weights: Mapping[str, Tensor]
    averages: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    progress: Progress
    origin: str
    random: Tensor


def write_state(path: Path, state: State) -> None:
    """Write a state; it replaces an earlier one atomically."""
    groups = {"weights": state.weights, "averages": state.averages, "best": state.best, "moments": state.moments}
    tensors = {f"{group}/{name}": tensor for group, part in groups.items() for name, tensor in part.items()}
    texts = {"format": FORMAT, "progress": state.progress.to_json(), "origin": state.origin}
    write_tensors(path, {**tensors, RANDOM: state.random}, texts)


def read_state(path: Path, origin: str | None) -> State:
    """Read a state; with ``origin`` None the origin is not checked, because another process has checked it.

    Raises
    ------
    InputError
        If the file is damaged or not a state, or belongs to another recipe or other data.
    """
    texts = read_texts(path, WHAT)
    if texts.get("format") != FORMAT or "progress" not in texts:
        raise InputError(f"expected a {WHAT}, received {path} of another kind; remove it, or choose another folder")
    if origin is not None and texts.get("origin") != origin:
        raise InputError(
            f"expected the recipe and the data that {path} was begun with, received others; continue with those, or "
            "remove that file to start again"
        )
    tensors = read_tensors(path, WHAT)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "averages": {}, "best": {}, "moments": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        if group in parts:
            parts[group][rest] = tensor
    try:
        progress = Progress.from_json(texts["progress"])
    except (ValueError, TypeError):
        raise InputError(f"expected a {WHAT} with a readable header, received {path}; remove it") from None
    random = tensors.get(RANDOM, torch.get_rng_state())
    return State(**parts, progress=progress, origin=texts.get("origin", ""), random=random)


def moments_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the tensors of an optimiser by number of the parameter and name."""
    found = optimizer.state_dict()["state"]
    return {f"{number}/{name}": value for number, values in found.items() for name, value in values.items()}


def restore_moments(optimizer: Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Restore an optimiser from the tensors of :func:`moments_of`."""
    made: dict[int, dict[str, Any]] = {}
    for key, value in moments.items():
        number, _, name = key.partition("/")
        made.setdefault(int(number), {})[name] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict({**whole, "state": made})


