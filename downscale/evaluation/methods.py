"""Methods of an evaluation recipe: labels and arguments of ``downscale.downscale``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.api import downscale
from downscale.cf.horizontal import as_dataset
from downscale.errors import DownscaleError
from downscale.evaluation.schema import Method
from downscale.evaluation.truth import Block, Truth
from downscale.methods.learned import is_learned, opened, require_method
from downscale.models import path_of
from downscale.models.checkpoint import Record, load_record
from downscale.training.schema import TrainingRecipe, load_training

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Contender:
    """A method ready to run.

    Attributes
    ----------
    how : Method
        Entry of the recipe.
    method : object
        A name, or a model in memory.
    record : Record or None
        Training record of a learned model.
    """

    how: Method
    method: Any
    record: Record | None = None

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.how.label

    def arguments(self, truth: Truth) -> dict[str, Any]:
        """Return the arguments of ``downscale.downscale`` for one source."""
        how, learned = self.how, is_learned(self.method)
        given: dict[str, Any] = {
            "factor": truth.factor, "method": self.method, "conserve": how.conserve, "data_vars": list(truth.names),
            "bounds": truth.bounds if how.bounded and how.conserve == "cell" else None, "device": how.device,
            "check": "skip",
        }  # fmt: skip
        if not learned:
            given |= {"taps": how.taps, "order": how.order}
        if how.members is not None:
            given |= {"members": how.members, "seed": how.seed}
        if how.smoothing is not None:
            given["smoothing"] = how.smoothing
        if how.lapse_rate is not None:
            given["lapse_rate"] = how.lapse_rate
        if "orog" in truth.statics and (learned or how.lapse_rate is not None):
            given["orog"] = truth.statics["orog"]
        if "sftlf" in truth.statics and learned:
            given["sftlf"] = truth.statics["sftlf"]
        return given

    def run(self, block: Block, truth: Truth) -> xr.Dataset:
        """Return fine maps, in memory.

        Raises
        ------
        DownscaleError
            If the method does not fit the data; the message begins with its label.
        """
        try:
            # Pass whole objects: a selection by name would lose the bounds of the axes, and with them the cells.
            fine, _ = as_dataset(downscale(block.coarse, **self.arguments(truth)))
        except DownscaleError as error:
            raise type(error)(f"{self.label}, {truth.label}: {error}") from None
        return fine.load()


def contenders(methods: Sequence[Method], factor: tuple[int, int], folder: Path, say: Say) -> list[Contender]:
    """Return methods ready to run, with checkpoints read, or trained into ``folder`` unless that was done before.

    Faults of all recipes and checkpoints are found before the first training begins.

    Raises
    ------
    DownscaleError
        If a method is unknown, or its checkpoint or recipe is not usable; the message begins with its label.
    """
    recipes = {how.label: load_training(how.train, how.change) for how in methods if how.train is not None}
    ready = {how.label: _ready(how, how.method, factor) for how in methods if how.train is None}
    for how in methods:
        if how.train is not None:
            ready[how.label] = _ready(how, str(_trained(how, recipes[how.label], folder, say)), factor)
    return [ready[how.label] for how in methods]


def _ready(how: Method, method: str, factor: tuple[int, int]) -> Contender:
    try:
        require_method(method)
        record = load_record(path_of(method, factor))[1] if is_learned(method) else None
        return Contender(how, opened(method, factor), record)
    except DownscaleError as error:
        raise type(error)(f"{how.label}: {error}") from None


def _trained(how: Method, recipe: TrainingRecipe, folder: Path, say: Say) -> Path:
    """Run a training recipe, with its checkpoint in the folder of the evaluation, and return the path.

    A complete earlier run is reused; an incomplete one resumes.
    """
    from downscale.training.fit import train

    path = folder / f"{slug(how.label)}.safetensors"
    output = recipe.output.model_copy(update={"path": str(path), "folder": None, "overwrite": False})
    training = recipe.training
    if how.max_time is not None:
        training = training.model_copy(update={"max_time": how.max_time})
    say(f"{how.label}: trains by {how.train}")
    try:
        return train(recipe.model_copy(update={"output": output, "training": training}), True, say)
    except DownscaleError as error:
        raise type(error)(f"{how.label}: {error}") from None


def slug(text: str) -> str:
    """Return a text that is safe in a file name.

    Examples
    --------
    >>> slug("another day, 1/2")
    'another_day_1_2'
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "unnamed"
