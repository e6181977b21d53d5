"""Methods of an evaluation recipe, their scores on one source, and the cost of their work."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.api import downscale
from downscale.cf.horizontal import as_dataset
from downscale.check.conservation import check_conservation
from downscale.errors import InputError, OptionError
from downscale.evaluation.schema import COST, LAW, Method
from downscale.evaluation.truth import Block, Truth
from downscale.methods.registry import AUTO, find_method, is_learned
from downscale.metrics.events import EventCounts, occurs
from downscale.metrics.scores import Scores
from downscale.models import path_of
from downscale.models.checkpoint import Record, load
from downscale.training.pairs import prefix_errors
from downscale.training.schema import EventRule, TrainingRecipe, load_training

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Floats = NDArray[np.float64]
# Decision probability of fields; for ensembles, half the members.
HALF = 0.5
# Description of each score of the mask.
MASK_SCORES = {
    "csi": "critical success index of the event", "recall": "share of the event that is found",
    "precision": "share of the mask that is the event", "f1": "F1 score of the event", "f2": "F2 score of the event",
    "frequency_bias": "area of the mask over that of the event", "brier": "Brier score of the event",
    "base_rate": "share of the area in the event",
}  # fmt: skip
PREFIX = "event_"
MEGABYTE = 1e6
Say = Callable[[str], None]


@dataclass
class Cost:
    """Total seconds of work so far, and peak memory in bytes beyond that in use before.

    Memory is the peak resident size, NaN if the system does not report it (Linux does).
    """

    seconds: float = 0.0
    memory: float = float("nan")

    def __enter__(self) -> Cost:
        gc.collect()
        # Return free memory to the system, and reset its record of peak memory, where that is possible.
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._before = float("nan")
        with suppress(OSError):
            CLEAR.write_text("5")
            self._before = _resident_bytes("VmRSS")
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start
        self.memory = float(np.fmax(self.memory, np.maximum(_resident_bytes("VmHWM") - self._before, 0)))


def _resident_bytes(key: str) -> float:
    """Return a line of the system's memory report on this process, in bytes; NaN if there is none."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return float(line.split()[1]) * 1024
    return float("nan")


def is_mask(output: xr.Dataset, name: str) -> bool:
    """Return whether the output of a method is the mask of an event instead of the field ``name``."""
    return name not in output


def event_probability(output: xr.Dataset) -> tuple[xr.DataArray, float]:
    """Return the probability of a model's event, and its decision probability."""
    for flag in output.data_vars.values():
        if "decision_threshold" in flag.attrs:
            return output[flag.attrs["ancillary_variables"]], float(flag.attrs["decision_threshold"])
    raise InputError("expected a field, or a flag with its probability, received neither; choose another method")


def mark_event(values: Floats, rule: EventRule) -> Floats:
    """Return 1 where values are in the event, 0 where they are not, NaN where they are missing.

    Examples
    --------
    >>> mark_event(np.array([1.0, 5.0, np.nan]), EventRule(above=5, units="mm"))
    array([ 0.,  1., nan])
    """
    return np.where(np.isnan(values), np.nan, occurs(rule, values))


@dataclass
class MethodScores:
    """Scores of one method on one source so far."""

    truth: Truth
    method: str
    scores: dict[str, Scores]  # by variable
    event: EventRule | None = None  # event of the first variable, whose mask is scored
    trained_times: int = 0  # times in the training data of the method
    # By variable: the largest relative error of a coarse cell and of the integral of a map, and the number of values
    # out of bounds; empty for masks, to which conservation does not apply.
    conservation: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    counts: EventCounts = field(default_factory=lambda: EventCounts.of([], []))
    decision: float = HALF  # decision probability of the mask

    def add(self, block: Block, output: xr.Dataset) -> None:
        """Score the maps of a block."""
        fields = [name for name in self.truth.names if not is_mask(output, name)]
        if fields:
            self._add_fields(block, output, fields)
        if self.event is not None:
            self._add_mask(block, output, self.event)
        elif not fields:
            raise OptionError("expected a field, received the mask of an event; set event in the recipe")

    def _add_fields(self, block: Block, output: xr.Dataset, names: list[str]) -> None:
        report = check_conservation(block.coarse, output, bounds=dict(self.truth.bounds), data_vars=names)
        for name in names:
            target = block.fine[name]
            self.scores[name].add(self._like(output[name], target), self._like(target, target), self.truth.area)
            entry, previous = report[name], self.conservation.get(name, (0.0, 0.0, 0))
            lost_error = math.inf if entry.cells_lost else 0.0
            self.conservation[name] = (
                max(previous[0], entry.max_relative_error, lost_error), max(previous[1], entry.global_error),
                previous[2] + entry.values_out_of_bounds,
            )  # fmt: skip

    def _add_mask(self, block: Block, output: xr.Dataset, event: EventRule) -> None:
        name = self.truth.names[0]
        target = mark_event(self._like(block.fine[name], block.fine[name]), event)
        if is_mask(output, name):
            flag, self.decision = event_probability(output)
            probability = self._like(flag, block.fine[name])
        else:
            events = mark_event(self._like(output[name], block.fine[name]), event)
            probability, self.decision = (events if events.ndim == target.ndim else events.mean(axis=0)), HALF
        self.counts = self.counts + EventCounts.of(probability, target, self.truth.area)

    def _like(self, output: xr.DataArray, target: xr.DataArray) -> Floats:
        """Return values with the dimensions of the target; any other comes first and holds members."""
        lead = [str(dim) for dim in target.dims if dim not in self.truth.dims]
        members = [str(dim) for dim in output.dims if dim not in target.dims]
        return np.asarray(output.transpose(*members, *lead, *self.truth.dims).values, dtype=np.float64)

    def value(self, variable: str, score: str) -> float:
        """Return one score of a variable; NaN for the conservation of a mask."""
        if score in LAW:
            return float(self.conservation.get(variable, (math.nan,) * len(LAW))[LAW.index(score)])
        if score.startswith(PREFIX):
            return self.counts.scores(self.decision)[score.removeprefix(PREFIX)]
        if score in COST:
            return self.cost.seconds if score == "seconds" else self.cost.memory / MEGABYTE
        return self.scores[variable][score]


@dataclass(frozen=True, eq=False)
class ReadyMethod:
    """A method ready to run."""

    entry: Method  # entry of the recipe
    method: Any  # A name, or a model in memory
    record: Record | None = None  # training record of a learned model

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.entry.label

    def arguments(self, truth: Truth) -> dict[str, Any]:
        """Return the arguments of ``downscale.downscale`` for one source."""
        entry, is_model = self.entry, is_learned(self.method)
        own = self.method.spec.statics if is_model and not isinstance(self.method, str) else ()
        needs_orog = is_model or entry.lapse_rate is not None
        options = {
            "taps": None if is_model else entry.taps, "order": None if is_model else entry.order,
            "members": entry.members, "seed": None if entry.members is None else entry.seed,
            "smoothing": entry.smoothing, "lapse_rate": entry.lapse_rate,
            "relief_smoothing": None if entry.lapse_rate is None else entry.relief_smoothing,
            "orog": truth.statics.get("orog") if needs_orog else None,
            "sftlf": truth.statics.get("sftlf") if is_model else None,
            "climatology": truth.statics.get("climatology") if "climatology" in own else None,
        }  # fmt: skip
        return {
            "factor": truth.factor, "method": self.method, "conserve": entry.conserve, "data_vars": list(truth.names),
            "bounds": truth.bounds if entry.bounded and entry.conserve == "cell" else None, "device": entry.device,
            "transform": entry.transform, "check": "skip",
            **{name: value for name, value in options.items() if value is not None},
        }  # fmt: skip

    def run(self, block: Block, truth: Truth) -> xr.Dataset:
        """Return fine maps, in memory."""
        with prefix_errors(f"{self.label}, {truth.label}"):
            # Pass whole objects: a selection by name would lose the bounds of the axes, and with them the cells.
            fine, _ = as_dataset(downscale(block.coarse, **self.arguments(truth)))
        return fine.load()


def open_methods(methods: Sequence[Method], factor: tuple[int, int], folder: Path, say: Say) -> list[ReadyMethod]:
    """Return methods ready to run, with checkpoints read, or trained into ``folder`` unless that was done before.

    Faults of all recipes and checkpoints are found before the first training begins.
    """
    recipes = {entry.label: load_training(entry.train, entry.change) for entry in methods if entry.train is not None}
    results = {entry.label: _open_method(entry, entry.method, factor) for entry in methods if entry.train is None}
    for entry in methods:
        if entry.train is not None:
            checkpoint = _train(entry, recipes[entry.label], folder, say)
            results[entry.label] = _open_method(entry, str(checkpoint), factor)
    return [results[entry.label] for entry in methods]


def _open_method(entry: Method, method: str, factor: tuple[int, int]) -> ReadyMethod:
    with prefix_errors(entry.label):
        find_method(method)
        if method == AUTO:
            raise OptionError(
                f"expected a method with settings of its own, received {method!r}, whose choice depends on the maps of "
                "a block; name 'sobolev' and the options to score"
            )
        return ReadyMethod(entry, *(load(path_of(method, factor)) if is_learned(method) else (method, None)))


def _train(entry: Method, recipe: TrainingRecipe, folder: Path, say: Say) -> Path:
    """Run a training recipe, with its checkpoint in the folder of the evaluation, and return the path.

    A complete earlier run is reused; an incomplete one resumes.
    """
    from downscale.training.fit import train

    path = folder / f"{slug(entry.label)}.safetensors"
    output = recipe.output.model_copy(update={"path": str(path), "folder": None, "overwrite": False})
    training = recipe.training
    if entry.max_time is not None:
        training = training.model_copy(update={"max_time": entry.max_time})
    say(f"{entry.label}: trains by {entry.train}")
    with prefix_errors(entry.label):
        return train(recipe.model_copy(update={"output": output, "training": training}), True, say)


def slug(text: str) -> str:
    """Return a text that is safe in a file name.

    Examples
    --------
    >>> slug("another day, 1/2")
    'another_day_1_2'
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "unnamed"
