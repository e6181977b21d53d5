"""Training from a recipe to a checkpoint: open, split, measure, advise, fit with Lightning, write."""

from __future__ import annotations

import gc
import importlib.util
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from downscale.errors import InputError, OptionError, OutputError
from downscale.io.config import read_recipe
from downscale.io.leases import lock_output
from downscale.io.paths import IN_RECIPE, check_target, find_named_files
from downscale.losses.compose import WeightedSum
from downscale.models.checkpoint import Record, load_record, save
from downscale.nn.networks import build
from downscale.nn.spec import STATICS, ModelSpec
from downscale.process.interrupts import raise_on_fatal_signals
from downscale.training.card import advise
from downscale.training.origin import data_hash, describe_source, recipe_identity, require_disjoint
from downscale.training.pairs import Source, Split, open_source, split_times
from downscale.training.patches import Component, count_orientations, static_components, variable_components
from downscale.training.progress import STATE, track_progress
from downscale.training.sampling import PatchSampler, require_samples
from downscale.training.schema import TrainingRecipe
from downscale.training.statistics import Statistics, measure_statistics
from downscale.training.tasks import TASKS, Downscaling, task_of
from downscale.version import TRAINS, library_versions

Say = Callable[[str], None]
SUFFIX = ".safetensors"
__all__ = ["TrainingPlan", "is_first_process", "model_spec", "prepare", "train"]


@dataclass(eq=False)
class TrainingPlan:
    """Sources, split, statistics and model of a training, before its first step."""

    recipe: TrainingRecipe
    task: type[Downscaling]
    sources: tuple[Source, ...]
    splits: tuple[Split, ...]
    statistics: Statistics
    spec: ModelSpec
    samplers: Mapping[str, PatchSampler]  # of the patches of both sides of the split, "train" and "validation"
    components: tuple[Component, ...]
    hash: str = ""
    advice: str = ""

    @property
    def origin(self) -> str:
        """Hash of recipe and data, which identifies the state of a training."""
        return recipe_identity(self.recipe, self.hash)


def vector_components(
    recipe: TrainingRecipe, sources: Sequence[Source], channels: Sequence[str]
) -> tuple[Component, ...]:
    """Return the vector components that turn with a patch; raises OptionError if it is unclear how a field turns."""
    if not recipe.patches.augment:
        return ()
    is_geographic = [source.geographic for source in sources]
    attributes = [source.variable_attributes(recipe.data) for source in sources]
    return (*variable_components(recipe.data, attributes, is_geographic), *static_components(channels))


def train(
    recipe: str | Path | Mapping[str, Any] | TrainingRecipe, resume: bool = False, say: Say | None = None, *,
    change: Mapping[str, Any] | None = None, dry_run: bool = False,
) -> Path:  # fmt: skip
    """Run a training recipe and return the path of the checkpoint.

    Parameters
    ----------
    recipe : str, path, mapping or TrainingRecipe
        A YAML file or its content.
    resume : bool
        Resume from the state of an earlier run, if there is one; return at once if that run is complete.
    say : callable, optional
        Receives progress lines: the sources, the advice on conservation, the error of each round.
    change : mapping of str, optional
        Values that replace those of the recipe, by the path of their key: ``{"training.steps": 100}``.
    dry_run : bool
        Open the data and advise; train and write nothing.

    Raises
    ------
    InputError, GridError, ShapeError, OptionError
        If data, names or settings are not usable, or there are too few samples.
    OutputError
        If the checkpoint exists, or an earlier state is in its place.
    Terminated
        If a signal such as SIGTERM is received, after the state is saved; handlers of the calling program are kept.

    Notes
    -----
    On one CPU without workers, an interrupted and resumed run gives the same weights, bit for bit, as an uninterrupted
    one, provided that ``steps`` ends it.
    """
    recipe = read_recipe(TrainingRecipe, recipe, change)
    if dry_run:
        prepare(recipe, say)
        return Path(recipe.output.path).expanduser()
    if recipe.training.steps is None and recipe.training.max_time is None:
        raise OptionError("expected training.steps or training.max_time, received neither; set one of them")
    if importlib.util.find_spec("lightning") is None:
        raise InputError(
            "expected the library lightning for training, received an installation without it; "
            "pip install 'downscale-climate[train]'"
        )
    report = say if say is not None and is_first_process() else lambda line: None
    checkpoint = _find_finished(recipe) if resume else None
    if checkpoint is not None:
        report(f"{checkpoint} is done already")
        return checkpoint
    target, folder = check_output(recipe, resume)
    try:
        with raise_on_fatal_signals(), lock_output(target) if is_first_process() else nullcontext():
            return _run(prepare(recipe, report), target, folder, resume, report)
    finally:
        with suppress(OSError):
            folder.rmdir()
        # Networks and their wrappers refer to each other: collect them now, or gigabytes of maps stay in memory.
        gc.collect()


def check_output(recipe: TrainingRecipe, resume: bool) -> tuple[Path, Path]:
    """Return the paths of the checkpoint, and of the folder of logs and state, after checking that they are free."""
    output = recipe.output
    inputs = find_named_files(recipe.model_dump(mode="json", exclude={"output"}))
    target = check_target(output.path, output.overwrite or resume, inputs, IN_RECIPE)
    if resume and target.exists() and not output.overwrite:
        load_record(target)
    if target.suffix != SUFFIX:
        raise OutputError(f"output.path: expected the suffix {SUFFIX}, received {output.path!r}; add it")
    folder = training_folder(recipe)
    if (folder / STATE).exists() and not resume and not output.overwrite:
        raise OutputError(
            f"expected no earlier run, received its state {folder / STATE}; continue with --resume, or set "
            "output.overwrite"
        )
    return target, folder


def is_first_process() -> bool:
    """Return whether this process is the only or first process of a training, which prints messages."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def prepare(recipe: TrainingRecipe, say: Say | None = None) -> TrainingPlan:
    """Open the sources, split their times, measure the data and print the advice on conservation, without training."""
    report = say or (lambda line: None)
    WeightedSum.from_config(recipe.training.loss)
    task, data = task_of(recipe), recipe.data
    sources = tuple(open_source(pair, data, recipe.network) for pair in data.pairs)
    splits = tuple(split_times(s.dates, s.sizes[0], data.validation, s.pair.use, s.label) for s in sources)
    require_disjoint(sources, splits)
    channels = [channel for name in data.statics for channel in STATICS[name]]
    components = vector_components(recipe, sources, channels)
    statistics = measure_statistics(
        sources, splits, data, recipe.patches,
        lambda items, total: track_progress(items, total, report, "maps looked at"),
    )
    samplers, orientations = {}, count_orientations(components)
    for side, minimum in (("train", recipe.training.batch), ("validation", 1)):
        maps = [source.maps_of(getattr(split, side)) for source, split in zip(sources, splits, strict=True)]
        samplers[side] = PatchSampler(
            sources, statistics.tables, maps, recipe.patches, recipe.training.seed, orientations
        )
        require_samples(samplers[side], minimum, side)
    spec = model_spec(recipe, statistics)
    plan = TrainingPlan(recipe, task, sources, splits, statistics, spec, samplers, components)
    if message := task.describe_data(plan):
        report(message)
    build(spec)  # invalid options raise before hours of reading
    plan.advice = advise(sources, splits, spec)
    for source, split in zip(sources, splits, strict=True):
        report(_describe(source, split))
    for line in plan.advice.splitlines():
        report(line)
    # One process hashes the files, and writes the hash.
    if is_first_process():
        plan.hash = data_hash(file for source in sources for file in source.files)
    return plan


def model_spec(recipe: TrainingRecipe, statistics: Statistics) -> ModelSpec:
    """Return the specification of a recipe's model, with the normalisation of the statistics."""
    network, task = recipe.network, TASKS[recipe.task]
    constraint = network.constraint
    keys = task.spec_keys(recipe, statistics)
    if recipe.conserve is None or not task.conserves:
        if constraint not in (None, "none"):
            raise OptionError(
                f"expected network.constraint 'none' with conserve: null, received {constraint!r}; drop one of them"
            )
        constraint = "none"
    if constraint is None:
        is_bounded = any(variable.bounds != (None, None) for variable in statistics.outputs)
        constraint = "bounded" if is_bounded else "additive"
    codes = keys["code"].variables(statistics.outputs[0].name) if "code" in keys else ()
    return ModelSpec(
        network=network.name, factor=recipe.data.factor, outputs=statistics.outputs,
        predictors=(*statistics.predictors, *codes),
        statics=tuple(recipe.data.statics), encodings=tuple(recipe.data.encodings), options=dict(network.options),
        constraint=constraint, taps=network.taps, order=network.order, kept=network.kept, noise=network.noise, **keys,
    )  # fmt: skip


def _find_finished(recipe: TrainingRecipe) -> Path | None:
    """Return the checkpoint that an earlier run of the same recipe wrote, else None."""
    target = Path(recipe.output.path).expanduser()
    if not target.is_file() or (training_folder(recipe) / STATE).exists():
        return None
    _, record = load_record(target)
    # The record has been through JSON, which turns tuples into lists.
    is_same = recipe_identity(TrainingRecipe.model_validate(record.recipe), "") == recipe_identity(recipe, "")
    if not is_same:
        raise OutputError(
            f"expected to resume the recipe of {target}, received another one; choose another output.path"
        )
    return target


def training_folder(recipe: TrainingRecipe) -> Path:
    """Return the folder of logs and state of a training."""
    return Path(recipe.output.folder or Path(recipe.output.path).with_suffix(".training")).expanduser()


def _run(plan: TrainingPlan, target: Path, folder: Path, resume: bool, say: Say) -> Path:
    from downscale.training.loop import Loop

    settings = plan.recipe.training
    with new_folder(folder, STATE):
        torch.manual_seed(settings.seed)
        task = plan.task(plan, say)
        loop = Loop(task, settings, folder, plan.origin if is_first_process() else None, say)
        loop.run(resume)
    if loop.fabric.is_global_zero:
        progress = loop.progress
        skill = {"skill": progress.best, "step": progress.best_step, "steps": progress.step,
                 "seconds": round(progress.seconds, 1), "by_source": skill_rows(plan, loop.errors.tolist()),
                 "rounds": progress.scores}  # fmt: skip
        task.averaged.load_state_dict(loop.best)
        save(target, task.averaged, record_of(plan, skill), plan.recipe.output.half)
        loop.state.unlink(missing_ok=True)
        say(f"wrote {target}")
    loop.fabric.barrier()
    return target


@contextmanager
def new_folder(folder: Path, marker: str) -> Iterator[None]:
    """Create a folder; remove it again if the block fails before it writes the file ``marker`` there.

    Only folders that this call created are removed.
    """
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if folder in new_folders and not (folder / marker).exists():
            shutil.rmtree(folder, ignore_errors=True)
            for path in new_folders[1:]:
                with suppress(OSError):
                    path.rmdir()
        raise


def record_of(plan: TrainingPlan, skill: dict[str, Any]) -> Record:
    """Return the record of a training for its checkpoint: recipe, sources with licences, and skill."""
    recipe = plan.recipe
    descriptions = [describe_source(source, split) for source, split in zip(plan.sources, plan.splits, strict=True)]
    licences = [description["licence"] for description in descriptions if description["licence"]]
    # Keys that a task ignores are left out of the recorded recipe.
    unused = {"training": set(plan.task.unused)}
    return Record(
        title=recipe.title, description=recipe.description, licence=recipe.licence,
        attribution=list(dict.fromkeys([*recipe.attribution, *licences])), sources=descriptions,
        data_hash=plan.hash, skill=skill, advice=plan.advice, versions=library_versions(TRAINS),
        recipe=recipe.model_dump(mode="json", exclude=unused),
        conserve=recipe.conserve if plan.task.conserves else None,
    )  # fmt: skip


def skill_rows(plan: TrainingPlan, errors: Sequence[Sequence[Sequence[float]]]) -> list[dict[str, Any]]:
    """Return errors of model and kernel by source and output, from sums of errors and weights (sources, V, 3)."""
    rows, measure = [], plan.task.measure(plan.spec)
    for source, sums in zip(plan.sources, errors, strict=True):
        for variable, (model, kernel, weight) in zip(plan.spec.outputs, sums, strict=True):
            if weight > 0:
                model_error, kernel_error = (total / weight for total in (model, kernel))
                if measure.power == 0.5:
                    model_error, kernel_error = math.sqrt(model_error), math.sqrt(kernel_error)
                ratio = model_error / kernel_error if kernel_error > 0 else None
                rows.append({
                    "source": source.label, "variable": variable.name, "units": variable.units, "rmse": model_error,
                    "rmse_kernel": kernel_error, "skill": ratio, **measure.keys,
                })  # fmt: skip
    return rows


def _describe(source: Source, split: Split) -> str:
    train, validation = (source.maps_of(times).size for times in (split.train, split.validation))
    rows, columns = source.grid.shape
    kind = "with the coarse fields of " + source.pair.coarse if source.pair.coarse else "averaged"
    return f"{source.label}: {rows} x {columns} coarse cells {kind}, {train} maps train, {validation} validate"
