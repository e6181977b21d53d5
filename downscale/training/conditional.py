"""Adversarial training of a conditional ensemble: the critic sees fine maps together with their coarse field.

The generator is a learned model with noise, so that every map that the critic sees conserves each coarse-cell mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from downscale.errors import InputError, OptionError, OutputError, ShapeError
from downscale.models.checkpoint import load, save
from downscale.nn.adversarial import Critic, depth_of
from downscale.nn.learned import Learned
from downscale.training.adversarial import STATE, Adversarial, Duel
from downscale.training.fit import Prepared, checkpoint_path, folder_of, made_folder, prepare, record_of, skill_rows
from downscale.training.maps import Shelf
from downscale.training.module import JUDGED_MEMBERS, kernel_alone, predicted, probabilistic_errors, relative_error
from downscale.training.patches import Batch, PatchSet, collate
from downscale.training.schema import TrainingRecipe

Say = Callable[[str], None]
# Fraction of the variable's spread above which the critic sees the logarithm of differences.
LINEAR = 0.1
# File for the model of the last good state, beside the state, after a divergence.
LAST_GOOD = "last_good.safetensors"


class Conditional(nn.Module):
    """A critic of one output that sees the fine map, its gradients, and the coarse field on fine cells.

    Parameters
    ----------
    size : int
        Fine cells per side of a patch, 4 times a power of two.
    spread : float
        Standard deviation of the variable, in its units.
    width, norm : int, bool
        As for :class:`downscale.nn.adversarial.Critic`.
    """

    def __init__(self, size: int, spread: float, width: int = 16, norm: bool = True) -> None:
        super().__init__()
        self.critic, self.spread = Critic(size, 1, width, norm), spread

    def forward(self, maps: Tensor, batch: Batch) -> Tensor:
        """Return scores of scaled maps, given the batch they were generated for."""
        return self.critic(maps, self.seen(batch.cells.spread(batch.coarse)))

    def seen(self, values: Tensor) -> Tensor:
        """Return values scaled for the critic: large ones by their logarithm; missing ones as zero."""
        known = torch.where(torch.isfinite(values), values, torch.zeros_like(values)) / (LINEAR * self.spread)
        return known.sign() * torch.log1p(known.abs())


def train_adversarial(
    recipe: TrainingRecipe, how: Adversarial, start: str | Path | None = None, resume: bool = False, width: int = 16,
    say: Say | None = None,
) -> Path:  # fmt: skip
    """Train a generator of ensemble members against a critic, write its checkpoint and return the path.

    Parameters
    ----------
    recipe : TrainingRecipe
        Data, patches, network with noise, output; of its training block only the batch size.
    how : Adversarial
        Settings of the adversarial training.
    start : path, optional
        A checkpoint of the same model as initial weights, such as one trained with the CRPS.
    resume : bool
        Resume from the saved state.
    width : int
        Width of the critic.
    say : callable, optional
        Receives progress lines with the spread of members relative to its expected value.

    Raises
    ------
    OptionError
        If the network has no noise, or several outputs.
    ShapeError
        If fine patches are not squares of 8, 16, 32, ... cells per side.
    InputError
        If data or the start are not usable, or a loss is NaN or infinite. The model of the last good state is then
        saved beside the state.
    OutputError
        If the checkpoint exists, or an earlier state is in its place.

    Notes
    -----
    Every member conserves each coarse-cell mean by construction. On one CPU, an interrupted and resumed training gives
    the same weights, bit for bit, as an uninterrupted one.
    """
    tell = say or (lambda line: None)
    size = _size_of(recipe)
    target = checkpoint_path(recipe, resume)
    folder = folder_of(recipe, target)
    state = folder / STATE
    if state.exists() and not resume and not recipe.output.overwrite:
        raise OutputError(
            f"expected no earlier run, received its state {state}; continue with --resume, or set output.overwrite"
        )
    prepared = prepare(recipe, tell)
    torch.manual_seed(how.seed)
    learned = Learned(prepared.spec) if start is None else _started(prepared, start)
    critic = Conditional(size, prepared.survey.spread[0], width, norm=how.loss == "hinge")
    patches = PatchSet(Shelf(prepared.sources, recipe.patches.cache_mb), prepared.parts, recipe.patches)
    duel = Duel(learned, critic, _draws(prepared, patches, critic), _made(critic), how, origin=prepared.origin)
    try:
        with made_folder(folder, STATE):
            duel.run(folder, resume, tell)
    except InputError as error:
        if not duel.diverged or not state.exists():
            raise
        raise InputError(f"{error}; its model is {_last_good(duel, folder, prepared)}") from None
    duel.averaged.cpu()
    record = record_of(prepared, _judged(prepared, patches, _model_of(duel), duel.step, tell))
    save(target, _model_of(duel), record, recipe.output.half)
    return target


def _last_good(duel: Duel, folder: Path, prepared: Prepared) -> Path:
    """Write the model of the last good state and return its path."""
    duel.load(folder / STATE)
    return save(folder / LAST_GOOD, _model_of(duel), record_of(prepared, {"steps": duel.step, "step": duel.step}))


def _size_of(recipe: TrainingRecipe) -> int:
    """Return the fine cells per side of the patches, after checking that a critic can be trained on the recipe."""
    noise, outputs, data = recipe.network.noise, recipe.data.outputs, recipe.data
    if not any(noise) or len(outputs) != 1:
        raise OptionError(
            f"expected a network with noise and one output, received noise {list(noise)} and {len(outputs)} outputs; "
            "set network.noise"
        )
    fine = tuple(cells * factor for cells, factor in zip(recipe.patches.size, data.factor, strict=True))
    if fine[0] != fine[1]:
        raise ShapeError(f"expected square patches, received {fine[0]} x {fine[1]} fine cells; set patches.size")
    depth_of(fine[0])
    return fine[0]


def _model_of(duel: Duel) -> Learned:
    assert isinstance(duel.averaged, Learned)
    return duel.averaged.eval()


def _started(prepared: Prepared, start: str | Path) -> Learned:
    learned = load(Path(start).expanduser())[0]
    here, there = prepared.spec, learned.spec
    same = replace(there, outputs=here.outputs, kept=here.kept) == here
    if not same:
        raise OptionError(f"expected a checkpoint of the network of the recipe to start with, received {start}")
    return learned.train().requires_grad_(True)


def _draws(
    prepared: Prepared, patches: PatchSet, critic: Conditional
) -> Callable[[int], tuple[Tensor, Batch]]:
    """Return a sampler of real patches; it uses torch's random numbers, which a resumed training restores."""
    draws = prepared.draws("train")

    def draw(count: int) -> tuple[Tensor, Batch]:
        number = int(torch.randint(2**30, (1,)))
        batch = collate([patches[key] for key in draws.round(number, count)], prepared.spec.factor)
        # Where the reference is missing, both maps are zero.
        return critic.seen(batch.target), batch

    return draw


def _made(critic: Conditional) -> Callable[[nn.Module, Any, int], Tensor]:
    def make(model: nn.Module, batch: Batch, count: int) -> Tensor:
        assert isinstance(model, Learned)
        maps = predicted(model, batch, 1)[0]
        return critic.seen(torch.where(torch.isfinite(batch.target), maps, torch.zeros_like(maps)))

    return make


def _judged(prepared: Prepared, patches: PatchSet, learned: Learned, step: int, tell: Say) -> dict[str, Any]:
    """Return the fair CRPS on the validation split beside the absolute error of the kernel, by source."""
    recipe = prepared.recipe
    sums = torch.zeros(len(prepared.sources), len(prepared.spec.outputs), 3, dtype=torch.float64)
    same, patches = torch.Generator().manual_seed(recipe.training.seed), patches.tiled()
    for key in prepared.draws("validation").fixed(recipe.data.validation.patches):
        batch = collate([patches[key]], prepared.spec.factor)
        with torch.no_grad():
            members = predicted(learned, batch, JUDGED_MEMBERS, same)
        sums[key.source] += probabilistic_errors(batch, members, kernel_alone(prepared.spec, batch))[0]
    score = relative_error(sums, 1.0)
    tell(f"step {step}: fair CRPS {score:.4f} of the kernel's absolute error on the validation split")
    return {"skill": score, "step": step, "steps": step, "by_source": skill_rows(prepared, sums.tolist())}
