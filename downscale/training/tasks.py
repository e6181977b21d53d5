"""Tasks of recipes: for each, its keys, its part of the model, its training step and its validation."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from downscale.errors import InputError, OptionError
from downscale.losses.compose import LossContext, Sobolev, Spectral, Terrain, WeightedSum
from downscale.losses.probabilistic import event_loss
from downscale.metrics.events import LOGITS, EventCounts, calibration, logit_counts, occurs, probability_counts
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.learned import Learned
from downscale.nn.spec import Code, Event, ModelSpec
from downscale.training.pairs import MapCache, read_truth
from downscale.training.patches import Batch, PatchSet, collate
from downscale.training.predict import (
    VALIDATION_MEMBERS,
    kernel_errors,
    kernel_prediction,
    predict,
    probabilistic_errors,
    random_generator,
    relative_error,
    squared_errors,
)
from downscale.training.progress import Progress, remaining_steps, track_progress
from downscale.training.schema import TrainingRecipe

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from downscale.training.fit import TrainingPlan
    from downscale.training.sampling import PatchIndex
    from downscale.training.statistics import Statistics

Say = Callable[[str], None]
BRIER = "root of the Brier score"
# Largest fraction of cells with a rare event, and number of maps per source to search for events.
NOT_RARE, MOST_MAPS = 0.2, 24
# Least standard deviation of a patch in the loss, relative to that of the variable.
LEAST_SPREAD = 0.1
# Least mean square error of the kernel on a patch in the loss, relative to that of its source.
LEAST_ERROR = 0.01
# Number of patches of a source for the kernel's error there, and the round that they are sampled from.
TYPICAL_PATCHES, TYPICAL_ROUND = 24, 2**30
# Uses of random noise.
TRAIN, VALIDATE = 0, 1


@dataclass(frozen=True)
class Measure:
    """Validation errors of a kind of model."""

    line: str  # description in progress lines
    power: float = 0.5  # of mean errors: a half for the root of squared ones
    keys: Mapping[str, str] = field(default_factory=dict)  # further keys of a row of errors


FIELD = Measure("of the kernel's RMSE")
ENSEMBLE = Measure(
    "CRPS over the kernel's absolute error", 1.0, {"measure": "CRPS", "measure_kernel": "absolute error"}
)
MASK = Measure("one minus the best score of the mask", keys={"measure": BRIER, "measure_kernel": BRIER, "units": "1"})


class _ForwardCall(nn.Module):
    """Calls a function within the forward pass of a network, where other processes and precision take effect."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[[], Any]) -> Any:
        """Return the result of the function."""
        return function()


class RoundBatches(torch.utils.data.Sampler[list["PatchIndex"]]):
    """Batches of one process in the current round; an interrupted round resumes at its next batch."""

    def __init__(self, plan: TrainingPlan, progress: Progress, fabric: Fabric) -> None:
        self.settings, self.sampler = plan.recipe.training, plan.samplers["train"]
        self.progress, self.fabric = progress, fabric

    def __iter__(self) -> Iterator[list[PatchIndex]]:
        batch, first, world = self.settings.batch, self.progress.done, self.fabric.world_size
        keys = self.sampler.training_keys(self.progress.round, self.settings.round * batch * world)
        keys = keys[self.fabric.global_rank :: world]
        for number in range(first, first + remaining_steps(self.progress, self.settings)):
            yield keys[number * batch : (number + 1) * batch]


class Downscaling:
    """Fine fields, or members of an ensemble of them; the base of the other tasks.

    ``errors`` has weighted sums of errors of the averaged model and of the kernel, and of weights, by source and
    output: squared errors, or for an ensemble the fair CRPS and the absolute error.
    """

    name: ClassVar[str] = "downscaling"
    block: ClassVar[str | None] = None  # block of the recipe that only this task has
    unused: ClassVar[tuple[str, ...]] = ()  # keys of the training block that it ignores
    conserves: ClassVar[bool] = True
    averages_lag, check_every = 10, 20

    @classmethod
    def require(cls, recipe: TrainingRecipe) -> None:
        """Raise an OptionError for a recipe that does not suit the task."""

    @classmethod
    def spec_keys(cls, recipe: TrainingRecipe, statistics: Statistics) -> dict[str, Any]:
        """Return keys of the model's specification."""
        return {}

    @classmethod
    def describe_data(cls, plan: TrainingPlan) -> str | None:
        """Return a message on the training data."""
        return None

    @classmethod
    def measure(cls, spec: ModelSpec) -> Measure:
        """Return the measure of a model's errors."""
        return ENSEMBLE if spec.stochastic else FIELD

    def __init__(self, plan: TrainingPlan, say: Say) -> None:
        recipe = plan.recipe
        self.plan, self.settings, self.spec = plan, recipe.training, plan.spec
        self.loss = WeightedSum.from_config(self.settings.loss)
        distances = any(isinstance(term.term, (Sobolev, Terrain, Spectral)) for term in self.loss.terms)
        cache = MapCache(plan.sources, recipe.patches.cache_mb)
        self.patches = PatchSet(cache, plan.components, recipe.patches, distances)
        self.typical = self._measure_kernel(say) if self.settings.loss_scale == "kernel" else torch.empty(0)
        self.model = self.networks = Learned(plan.spec)
        # The memory layout in which convolutions are fastest, on CPUs and accelerators.
        self.model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model).requires_grad_(False)
        self.errors, self._loaders = torch.empty(0), list[DataLoader[Any]]()

    def _measure_kernel(self, say: Say) -> Tensor:
        """Return the mean square error of the kernel on patches of the training split, by source and output."""
        sources = len(self.plan.sources)
        sums, counts = torch.zeros(sources, len(self.spec.outputs)), torch.zeros(sources, 1)
        # This round is never used in training, and is the same on every resume.
        keys = self.plan.samplers["train"].training_keys(TYPICAL_ROUND, TYPICAL_PATCHES * sources)
        # Sorted by map, so that each is read once.
        for key in track_progress(sorted(keys), len(keys), say, "patches of the kernel looked at"):
            sums[key.source] += kernel_errors(self.spec, collate([self.patches[key]], self.spec.factor))[0]
            counts[key.source] += 1
        mean = sums / counts.clamp_min(1)
        # A source without sampled patches gets the mean of the others.
        return torch.where(counts > 0, mean, mean.sum(dim=0) / (counts > 0).sum().clamp_min(1)).clamp_min(1e-24)

    def setup(self, fabric: Fabric) -> None:
        """Move the networks to the device, with weight decay on all parameters except biases and scales."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.settings.learning_rate)
        self.fabric = fabric
        self._call, optimizer = fabric.setup(_ForwardCall(self.model), optimizer)
        self.optimizers = [optimizer]
        fabric.to_device(self.averaged)

    def batches(self, progress: Progress, fabric: Fabric) -> Iterable[Batch]:
        """Return the batches that remain of the round."""
        if not self._loaders:
            keys = self.plan.samplers["validation"].validation_keys(self.plan.recipe.data.validation.patches)
            keys = keys[fabric.global_rank :: fabric.world_size]
            validation_batches = [keys[i : i + self.settings.batch] for i in range(0, len(keys), self.settings.batch)]
            self._loaders = [
                self._load(self.patches, RoundBatches(self.plan, progress, fabric)),
                self._load(self.patches.with_tiles(), validation_batches),
            ]
        return self._loaders[0]

    def _load(self, patches: PatchSet, batches: Any) -> DataLoader[Any]:
        workers = self.settings.workers
        return DataLoader(
            patches,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(collate, factor=self.spec.factor),
            persistent_workers=workers > 0,
            # Forked processes must not share open files.
            multiprocessing_context="spawn" if workers else None,
            # Each loader takes a random number: not from the generator that a resumed run restores.
            generator=torch.Generator().manual_seed(self.settings.seed),
        )

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Update the weights, and return the loss and its terms."""
        values: dict[str, Tensor] = self._call(partial(self.measure_loss, batch, number))
        self.optimizers[0].zero_grad()
        self.fabric.backward(values["loss"])
        if self.settings.clip is not None:
            self.fabric.clip_gradients(
                self._call, self.optimizers[0], max_norm=self.settings.clip, error_if_nonfinite=False
            )
        self.optimizers[0].step()
        return {name: value.detach() for name, value in values.items()}

    def measure_loss(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Return the loss of a batch and its terms; errors are in standard deviations of the variable."""
        generator = random_generator(self.settings.seed, TRAIN, number, self.fabric.global_rank)
        prediction = predict(self.model, batch, self.settings.members, generator)
        finite = torch.isfinite(prediction)
        valid = torch.isfinite(batch.target) & (finite.all(dim=0) if self.spec.stochastic else finite)
        # Missing values are NaN in both and must not reach a gradient.
        prediction = torch.where(valid, prediction, torch.zeros_like(prediction))
        target = torch.where(valid, batch.target, torch.full_like(batch.target, torch.nan))
        context = self._context(batch, self._scale(batch, valid))
        loss, values = self.loss.measure(prediction, target, batch.weight.expand_as(target), context)
        return {"loss": loss, **{f"loss_{name}": value for name, value in values.items()}}

    def _context(self, batch: Batch, scale: Tensor) -> LossContext:
        names = self.spec.static_channels
        orog = batch.statics[:, names.index("orog")].unsqueeze(1) if "orog" in names else None
        kernels = tuple(m.weight for m in self.model.modules() if isinstance(m, ConservativeConvTranspose2d))
        return LossContext(
            spacing=batch.spacing, orog=orog, coarse=batch.coarse, cells=batch.cells, kernels=kernels, scale=scale,
            variables=tuple(variable.name for variable in self.spec.outputs),
            members=0 if self.spec.stochastic else None,
        )  # fmt: skip

    def _scale(self, batch: Batch, valid: Tensor) -> Tensor:
        spread = batch.target.new_tensor(self.plan.statistics.spread).reshape(1, -1, 1, 1)
        if self.settings.loss_scale == "variable":
            return spread
        if self.settings.loss_scale == "kernel":
            errors = kernel_errors(self.spec, batch)
            typical = self.typical.to(errors)[batch.source]
            # The root of the mean of both mean squares, so that neither hard nor easy patches dominate the loss.
            return ((torch.maximum(errors, LEAST_ERROR * typical) * typical) ** 0.25).clamp_min(1e-12)[..., None, None]
        weight = batch.weight * valid
        total = weight.sum(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        values = torch.where(valid, batch.target, torch.zeros_like(batch.target))
        mean = (weight * values).sum(dim=(-2, -1), keepdim=True) / total
        variance = (weight * (values - mean) ** 2).sum(dim=(-2, -1), keepdim=True) / total
        return torch.sqrt(variance + (LEAST_SPREAD * spread) ** 2)

    @torch.no_grad()
    def validate(self, say: Say) -> float:
        """Return the score of the averaged weights on the validation split, and set ``errors``."""
        self.averaged.eval()
        sums: dict[int, Tensor] = {}
        loader = self._loaders[1]
        batches = track_progress(loader, len(loader), say, "batches of the validation split scored")
        for number, batch in enumerate(batches):
            batch = self.fabric.to_device(batch)
            with self.fabric.autocast():
                sum_errors = self.measure_errors(batch, number)
            for source in batch.source.unique().tolist():
                part = sum_errors(batch.source == source)
                sums[source] = sums[source] + part if source in sums else part
        zero = torch.zeros(self.errors_shape)
        total = torch.stack([sums.get(i, zero).cpu().double() for i in range(len(self.plan.sources))])
        if self.fabric.world_size > 1:
            total = torch.as_tensor(self.fabric.all_reduce(total.float(), reduce_op="sum")).cpu().double()
        return self.score(total)

    @property
    def errors_shape(self) -> tuple[int, ...]:
        """Shape of the sums of errors of a source."""
        return len(self.spec.outputs), 3

    def measure_errors(self, batch: Batch, number: int) -> Callable[[Tensor], Tensor]:
        """Return a function that sums the errors of some patches of a batch."""
        kernel = kernel_prediction(self.spec, batch)
        if self.spec.stochastic:
            # The same noise in every round, so that scores differ by the weights alone.
            noise = random_generator(self.settings.seed, VALIDATE, number, self.fabric.global_rank)
            errors = probabilistic_errors(batch, predict(self.averaged, batch, VALIDATION_MEMBERS, noise), kernel)
        else:
            errors = squared_errors(batch, predict(self.averaged, batch), kernel)
        return lambda selected: errors[selected].sum(dim=0)

    def score(self, sums: Tensor) -> float:
        """Return the score from the sums of errors by source, and set ``errors``."""
        self.errors = sums
        return relative_error(sums, self.measure(self.spec).power)

    def round_line(self, progress: Progress, row: Mapping[str, float], is_best: bool) -> str:
        """Return a progress line on the round that ended."""
        total = "" if self.settings.steps is None else f" of {self.settings.steps}"
        best = "best so far" if is_best else f"best {progress.best:.4f} at step {progress.best_step}"
        score, measure = (progress.scores or [])[-1][-1], self.measure(self.spec).line
        return f"step {progress.step}{total}, {progress.seconds:.0f} s: {score:.4f} {measure} ({best})"


class Segmentation(Downscaling):
    """Masks of a rare event; the score is one minus the best event score on the validation split."""

    name, block, conserves = "segmentation", "event", False
    unused = ("loss", "loss_scale", "members")  # a mask has its own loss

    @classmethod
    def require(cls, recipe: TrainingRecipe) -> None:
        """Raise an OptionError for several outputs, or keys of other losses."""
        if len(recipe.data.outputs) != 1:
            raise OptionError(f"expected one output with task: segmentation, received {len(recipe.data.outputs)}")
        for key in cls.unused:
            if key in recipe.training.model_fields_set:
                raise OptionError(
                    f"training.{key}: expected no such key with task: segmentation, received "
                    f"{getattr(recipe.training, key)!r}; the loss of a mask is event.loss, remove training.{key}"
                )

    @classmethod
    def spec_keys(cls, recipe: TrainingRecipe, statistics: Statistics) -> dict[str, Any]:
        """Return the event in the units of the variable."""
        rule, variable = recipe.event, statistics.outputs[0]
        assert rule is not None
        rule.require_units(variable.name, variable.units)
        return {"event": Event(rule.name, rule.threshold, rule.side, float(statistics.spread[0]))}

    @classmethod
    def describe_data(cls, plan: TrainingPlan) -> str:
        """Return a message on the event's frequency in the training split; warn if it is not rare."""
        event, hits, cells = plan.spec.event, 0, 0
        assert event is not None
        for source, split in zip(plan.sources, plan.splits, strict=True):
            maps = source.maps_of(split.train)
            for number in maps[:: max(maps.size // MOST_MAPS, 1)]:
                truth = read_truth(source, int(number))[0]
                hits += int(occurs(event, truth).sum())
                cells += int(np.isfinite(truth).sum())
        output = plan.spec.outputs[0]
        words = f"{output.name} {event.side} {event.threshold:g} {output.units}"
        if hits == 0:
            raise InputError(
                f"expected the event {event.name!r} ({words}) in the training data, received none; change it"
            )
        if hits > NOT_RARE * cells:
            warnings.warn(
                f"the event {event.name!r} ({words}) is in {hits / cells:.0%} of the cells, which is not rare",
                UserWarning, stacklevel=3,
            )  # fmt: skip
        return f"{event.name}: {words} in {hits / cells:.3%} of the fine cells that train"

    @classmethod
    def measure(cls, spec: ModelSpec) -> Measure:
        """Return the measure of masks."""
        return MASK

    @property
    def errors_shape(self) -> tuple[int, ...]:
        """Shape of the counts of a source: by event and logit, then the error of the kernel."""
        return (2 * len(LOGITS) + 1,)

    def _mask(self, model: Learned, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits, and 1 where the event occurs in the reference, 0 where not, NaN where missing."""
        event = torch.where(
            torch.isfinite(batch.target), occurs(self.spec.event, batch.target).to(batch.target), torch.nan
        )
        inputs = batch.coarse, batch.proposal, batch.cells, batch.predictors, batch.statics, batch.time_features
        return model(*inputs, constrain=False), event

    def measure_loss(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        logit, event = self._mask(self.model, batch)
        event = torch.where(torch.isfinite(logit), event, torch.nan)
        logit = torch.where(torch.isfinite(event), logit, 0.0)
        assert self.plan.recipe.event is not None
        return {"loss": event_loss(logit, event, batch.weight, **self.plan.recipe.event.loss.model_dump())}

    def measure_errors(self, batch: Batch, number: int) -> Callable[[Tensor], Tensor]:
        """Return a function that counts events by logit, and sums squared errors of the kernel's mask."""
        logit, event = self._mask(self.averaged, batch)
        kernel, weight = occurs(self.spec.event, batch.proposal).to(logit), batch.weight.expand_as(event)

        def count(selected: Tensor) -> Tensor:
            values, mask, events, areas = (
                field[selected].cpu().numpy() for field in (logit.float(), kernel.float(), event, weight)
            )
            counts, kernel_counts = logit_counts(values, events, areas), EventCounts.of(mask, events, areas)
            return torch.tensor([*counts.ravel(), kernel_counts.brier], dtype=torch.float64)

        return count

    def score(self, sums: Tensor) -> float:
        """Calibrate probabilities, and choose the threshold with the best score over all sources."""
        counts = sums[:, :-1].reshape(-1, 2, len(LOGITS)).numpy()
        line = calibration(counts.sum(axis=0))
        assert self.plan.recipe.event is not None
        level, value = probability_counts(counts.sum(axis=0), *line).best(self.plan.recipe.event.decision)
        for model in (self.model, self.averaged):
            model.decision.fill_(level)  # type: ignore[union-attr, operator]
            model.calibration.copy_(torch.tensor(line))  # type: ignore[union-attr, operator]
        brier = torch.tensor([probability_counts(row, *line).brier for row in counts], dtype=torch.float64)
        self.errors = torch.stack([brier, sums[:, -1], sums[:, :-1].sum(dim=1)], dim=-1)[:, None]
        # Without any event all rounds score the same.
        return 1.0 if math.isnan(value) else 1 - value


class Compression(Downscaling):
    """An encoder of fine fields to a code, and its decoder."""

    name, block = "compression", "code"

    @classmethod
    def require(cls, recipe: TrainingRecipe) -> None:
        """Raise an OptionError for coarse files."""
        if any(pair.coarse is not None for pair in recipe.data.pairs):
            raise OptionError(
                "expected fine files only with task: compression, whose coarse fields are their averages; remove coarse"
            )

    @classmethod
    def spec_keys(cls, recipe: TrainingRecipe, statistics: Statistics) -> dict[str, Any]:
        """Return the code."""
        assert recipe.code is not None
        return {"code": Code(**recipe.code.model_dump())}


TASKS = {task.name: task for task in (Downscaling, Segmentation, Compression)}


def task_of(recipe: TrainingRecipe) -> type[Downscaling]:
    """Return the task of a recipe; raises OptionError if task and blocks of the recipe do not match."""
    for name, task in TASKS.items():
        has_block = task.block is not None and getattr(recipe, task.block) is not None
        article = "an" if task.block == "event" else "a"
        if has_block and recipe.task != name:
            raise OptionError(
                f"expected task: {name} with {article} {task.block}, received task: {recipe.task}; set it"
            )
        if task.block is not None and not has_block and recipe.task == name:
            raise OptionError(f"expected {article} {task.block} with task: {name}, received none; give one")
    if recipe.task != "downscaling" and any(recipe.network.noise):
        raise OptionError(f"expected no network.noise with task: {recipe.task}, received {recipe.network.noise}")
    TASKS[recipe.task].require(recipe)
    return TASKS[recipe.task]
