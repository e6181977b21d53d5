"""Adversarial training of an up-scaler: a model that makes members, a critic that sees the coarse field (torch).

The generator is a learned model of any kind with noise, so that every map that the critic sees keeps the cell law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from downscale.errors import OptionError
from downscale.io.write import check_target
from downscale.nn.adversarial import Critic
from downscale.nn.learned import Learned
from downscale.train.adversarial import Adversarial, Duel
from downscale.train.checkpoint import load, save
from downscale.train.fit import Prepared, folder_of, prepare, record_of
from downscale.train.maps import Shelf
from downscale.train.module import predicted
from downscale.train.patches import Batch, PatchSet, collate
from downscale.train.schema import TrainingRecipe

Say = Callable[[str], None]
# The share of the variable's spread below which differences are seen as they are, above it by their logarithm.
LINEAR = 0.1


class Conditional(nn.Module):
    """A critic of one output that sees the fine map, its gradients, and the coarse field on fine cells.

    Parameters
    ----------
    size : int
        Fine cells a side of a patch, 4 times a power of two.
    spread : float
        Of the variable, in its units.
    width, norm : int, bool
        As for :class:`downscale.nn.adversarial.Critic`.
    """

    def __init__(self, size: int, spread: float, width: int = 16, norm: bool = True) -> None:
        super().__init__()
        self.critic, self.spread = Critic(size, 1, width, norm), spread

    def forward(self, maps: Tensor, batch: Batch) -> Tensor:
        """Return scores of seen maps, given the batch they were made for."""
        return self.critic(maps, self.seen(batch.cells.spread(batch.coarse)))

    def seen(self, values: Tensor) -> Tensor:
        """Return values as the critic sees them: large ones by their logarithm; missing ones as zero."""
        known = torch.where(torch.isfinite(values), values, torch.zeros_like(values)) / (LINEAR * self.spread)
        return known.sign() * torch.log1p(known.abs())


def train_adversarial(
    recipe: TrainingRecipe, how: Adversarial, start: str | Path | None = None, resume: bool = False, width: int = 16,
    say: Say | None = None,
) -> Path:  # fmt: skip
    """Train a model that makes members against a critic, and write its checkpoint.

    Parameters
    ----------
    recipe : TrainingRecipe
        Data, patches, network with noise, output; of its training the batch only.
    how : Adversarial
        Settings of the duel.
    start : path, optional
        A checkpoint of the same model to begin with, such as one trained with the CRPS.
    resume : bool
        Go on from the state that is there.
    width : int
        Of the critic.
    say : callable, optional
        Takes lines for people; each tells the spread of members, 1 where they differ as much as they should.

    Raises
    ------
    OptionError
        If the network has no noise, or several outputs.
    ShapeError
        If fine patches are not 8, 16, 32, ... cells a side.
    InputError
        If data or the start are not usable, or a loss is no number.

    Notes
    -----
    Cell law for every member, by construction.
    """
    tell = say or (lambda line: None)
    target = check_target(recipe.output.path, recipe.output.overwrite or resume)
    prepared = prepare(recipe, tell)
    spec = prepared.spec
    if not spec.stochastic or len(spec.outputs) != 1:
        raise OptionError(
            f"expected a network with noise and one output, received noise {list(spec.noise)} and "
            f"{len(spec.outputs)} outputs; set network.noise"
        )
    torch.manual_seed(how.seed)
    learned = Learned(spec) if start is None else _started(prepared, start)
    size = recipe.patches.size[0] * spec.factor[0]
    critic = Conditional(size, prepared.survey.spread[0], width, norm=how.loss == "hinge")
    duel = Duel(learned, critic, _draws(prepared, critic), _made(critic), how)
    averaged = duel.run(folder_of(recipe, target), resume, tell)
    assert isinstance(averaged, Learned)
    save(target, averaged.eval(), record_of(prepared, {}))
    return target


def _started(prepared: Prepared, start: str | Path) -> Learned:
    learned = load(Path(start).expanduser())[0]
    here, there = prepared.spec, learned.spec
    same = replace(there, outputs=here.outputs, kept=here.kept) == here
    if not same:
        raise OptionError(f"expected a checkpoint of the network of the recipe to start with, received {start}")
    return learned.train().requires_grad_(True)


def _draws(prepared: Prepared, critic: Conditional) -> Callable[[int], tuple[Tensor, Batch]]:
    """Return what draws real patches; rounds follow torch's numbers, which a resumed training has again."""
    patches = PatchSet(
        Shelf(prepared.sources, prepared.recipe.patches.cache_mb), prepared.spec.static_channels,
        prepared.recipe.patches, False,
    )  # fmt: skip
    draws = prepared.draws("train")

    def draw(count: int) -> tuple[Tensor, Batch]:
        number = int(torch.randint(2**30, (1,)))
        batch = collate([patches[key] for key in draws.round(number, count)], prepared.spec.factor)
        # Where the truth is missing neither map is judged: both are zero there.
        return critic.seen(batch.target), batch

    return draw


def _made(critic: Conditional) -> Callable[[nn.Module, Any, int], Tensor]:
    def make(model: nn.Module, batch: Batch, count: int) -> Tensor:
        assert isinstance(model, Learned)
        maps = predicted(model, batch, 1)[0]
        return critic.seen(torch.where(torch.isfinite(batch.target), maps, torch.zeros_like(maps)))

    return make
