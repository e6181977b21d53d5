"""Adversarial training of a generator and a critic, unconditional or conditional on the coarse field."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from downscale.errors import OptionError, ShapeError
from downscale.losses.adversarial import KINDS, critic_loss, generator_loss, gradient_penalty
from downscale.models.checkpoint import load, save
from downscale.nn.adversarial import Critic, depth_of
from downscale.nn.learned import Learned
from downscale.training.fit import TrainingPlan, check_output, new_folder, prepare, record_of, skill_rows
from downscale.training.loop import Diverged, Loop
from downscale.training.pairs import MapCache
from downscale.training.patches import Batch, PatchSet, collate
from downscale.training.predict import (
    VALIDATION_MEMBERS,
    kernel_prediction,
    predict,
    probabilistic_errors,
    relative_error,
)
from downscale.training.progress import STATE, Progress, remaining_steps
from downscale.training.schema import Training, TrainingRecipe
from downscale.training.tasks import ENSEMBLE

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# Settings that do not identify a training.
UNIDENTIFYING = ("steps", "round", "accelerator")
# Real maps, and the conditions that generated maps must fit; None for unconditional maps.
Pair = tuple[Tensor, Any]
Say = Callable[[str], None]
# Fraction of the variable's spread above which the critic sees the logarithm of differences.
LINEAR = 0.1
# Relative spread of maps below which the generator collapses.
COLLAPSED = 0.2
# File for the model of the last good state, beside the state, after a divergence.
LAST_GOOD = "last_good.safetensors"


@dataclass(frozen=True)
class GANSettings:
    """Settings of an adversarial training, checked on creation."""

    steps: int = 2000  # training steps of the generator
    batch: int = 16  # maps per step
    loss: str = "hinge"  # loss of the critic: "hinge" or "wgan-gp"
    critic_steps: int = 1  # steps of the critic per step of the generator
    # Learning rates.
    generator_rate: float = 2e-4
    critic_rate: float = 4e-4
    gradient_weight: float = 10.0  # weight of the gradient penalty, for "wgan-gp"
    ema: float = 0.995  # decay of the averages of the generator's weights
    round: int = 100  # steps between two saved states, and between two lines of the log
    seed: int = 0  # seed of all random numbers
    accelerator: str = "auto"  # of the networks and of the maps they process, as Lightning has them

    def __post_init__(self) -> None:
        if self.loss not in KINDS:
            raise OptionError(f"expected an adversarial loss among {', '.join(KINDS)}, received {self.loss!r}")
        for name in ("steps", "batch", "critic_steps", "generator_rate", "critic_rate", "round"):
            if not getattr(self, name) > 0:
                raise OptionError(f"expected {name} above zero, received {getattr(self, name)!r}")
        if not 0 <= self.ema < 1:
            raise OptionError(f"expected ema from 0 to below 1, received {self.ema!r}")


class GANTrainer:
    """A generator and a critic in training; the result is ``averaged``, the generator with averaged weights.

    ``draw`` returns a batch of real maps and their conditions (None for unconditional maps), on the CPU. ``generate``
    generates random maps from a generator, conditions on its device, and a number of maps. ``penalty`` is added to the
    loss of the generator. A state of another ``origin``, an identifier of the data, is refused.
    """

    averages_lag, check_every = 9, 1

    def __init__(
        self,
        generator: Any,
        critic: nn.Module,
        draw: Callable[[int], Pair],
        generate: Callable[[Any, Any, int], Tensor],
        settings: GANSettings,
        penalty: Callable[[Tensor], Tensor] | None = None,
        origin: str = "",
    ) -> None:
        self.model, self.critic, self.draw, self.generate = generator, critic, draw, generate
        self.settings, self.penalty = settings, penalty
        self.networks = nn.ModuleDict({"generator": generator, "critic": critic})
        self.averaged: Any = copy.deepcopy(generator).requires_grad_(False)
        self.errors = torch.empty(0)
        # No momentum on the mean gradient, because the opponent moves.
        self.optimizers = [
            torch.optim.Adam([{"params": module.parameters(), "relative_rate": rate}], lr=rate, betas=(0.0, 0.99))
            for module, rate in ((generator, settings.generator_rate), (critic, settings.critic_rate))
        ]
        # The length of the training and the frequency of log lines do not identify it.
        identity = {name: value for name, value in asdict(settings).items() if name not in UNIDENTIFYING}
        self.origin = json.dumps({**identity, "origin": origin}, sort_keys=True)

    def loop(self, folder: Path, say: Say | None = None) -> Loop:
        """Return the loop of the training, whose state and logs are in an existing folder."""
        settings = self.settings
        training = Training(
            steps=settings.steps, round=settings.round, ema=settings.ema, seed=settings.seed,
            accelerator=settings.accelerator, devices=1, learning_rate=1.0, schedule="constant", warmup=0.0,
        )  # fmt: skip
        return Loop(self, training, folder, self.origin, say or (lambda line: None))

    def run(self, folder: Path, resume: bool = False, say: Say | None = None) -> Any:
        """Train to the end and return the averaged generator; the folder of state and logs is created if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self.loop(folder, say).run(resume)
        return self.averaged

    def setup(self, fabric: Fabric) -> None:
        """Move the networks to the device."""
        self.fabric = fabric
        for module in (self.networks, self.averaged):
            fabric.to_device(module)

    def batches(self, progress: Progress, fabric: Fabric) -> Iterable[None]:
        """Return None for each step that remains of the round; the step itself draws its batches."""
        settings = Training(steps=self.settings.steps, round=self.settings.round)
        return repeat(None, remaining_steps(progress, settings))

    def step(self, batch: None, number: int) -> dict[str, Tensor]:
        """Update the critic, then the generator; return the losses and the ratio of spreads."""
        generator, critic, settings = self.model, self.critic, self.settings
        for _ in range(settings.critic_steps):
            real_maps, condition = self.fabric.to_device(self.draw(settings.batch))
            with torch.no_grad():
                maps = self.generate(generator, condition, settings.batch)
            loss = critic_loss(critic(real_maps, condition), critic(maps, condition), settings.loss)
            if settings.loss == "wgan-gp":
                mix = torch.rand(len(real_maps), 1, 1, 1).to(real_maps)
                penalty = gradient_penalty(partial(_scores, critic, condition), real_maps, maps, mix)
                loss = loss + settings.gradient_weight * penalty
            _descend(self.optimizers[1], loss)
        real_maps, condition = self.fabric.to_device(self.draw(settings.batch))
        maps = self.generate(generator, condition, settings.batch)
        g_loss = generator_loss(critic(maps, condition))
        penalty = maps.new_zeros(()) if self.penalty is None else self.penalty(maps)
        _descend(self.optimizers[0], g_loss + penalty)
        with torch.no_grad():
            other_maps = None if condition is None else self.generate(generator, condition, settings.batch)
            spread = spread_of(maps, real_maps, other_maps)
        return {"critic": loss.detach(), "generator": g_loss.detach(), "penalty": penalty.detach(), "spread": spread}

    def validate(self, say: Say) -> None:
        """Return None: the losses of adversaries are no score."""

    def round_line(self, progress: Progress, row: Mapping[str, float], is_best: bool) -> str:
        """Return a progress line with the losses of the last step; ``row`` may be empty."""
        line = f"step {progress.step} of {self.settings.steps}"
        if not row:
            return line
        words = ", ".join(f"{name} {value:.3g}" for name, value in row.items())
        warning = "; maps are too similar: the generator collapses" if row["spread"] < COLLAPSED else ""
        return f"{line}: {words}{warning}"


def spread_of(maps: Tensor, real: Tensor, other: Tensor | None = None) -> Tensor:
    """Return the spread of maps relative to its expected value: 1 is ideal, 0 is a collapse.

    For unconditional maps, the spread is the difference between successive maps relative to that of real maps. For
    conditional maps, it is the difference from ``other`` maps of the same condition, relative to the difference from
    the truth; the two are equal for a reliable ensemble.
    """
    if other is None:
        return maps.std(dim=0).mean() / real.std(dim=0).mean().clamp_min(1e-12)
    return (maps - other).abs().mean() / (maps - real).abs().mean().clamp_min(1e-12)


def _scores(critic: nn.Module, condition: Any, maps: Tensor) -> Tensor:
    scores: Tensor = critic(maps, condition)
    return scores


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


class Conditional(nn.Module):
    """A critic of one output that sees the fine map, its gradients, and the coarse field on fine cells."""

    def __init__(self, size: int, spread: float, width: int = 16, norm: bool = True) -> None:
        super().__init__()
        self.critic, self.spread = Critic(size, 1, width, norm), spread

    def forward(self, maps: Tensor, batch: Batch) -> Tensor:
        """Return scores of scaled maps, given the batch they were generated for."""
        return self.critic(maps, self.scale(batch.cells.broadcast_to_fine(batch.coarse)))

    def scale(self, values: Tensor) -> Tensor:
        """Return values scaled for the critic: large ones by their logarithm; missing ones as zero."""
        ratio = torch.where(torch.isfinite(values), values, torch.zeros_like(values)) / (LINEAR * self.spread)
        return ratio.sign() * torch.log1p(ratio.abs())


def train_adversarial(
    recipe: TrainingRecipe, settings: GANSettings, start: str | Path | None = None, resume: bool = False,
    width: int = 16, say: Say | None = None,
) -> Path:  # fmt: skip
    """Train a generator of ensemble members against a critic, write its checkpoint and return the path.

    Only the batch size of the training block of the recipe is used. ``start`` is a checkpoint of the same model as
    initial weights, such as one trained with the CRPS; ``width`` is that of the critic. Fine patches must be squares of
    8, 16, 32, ... cells per side. If a loss is NaN or infinite, the model of the last good state is saved beside the
    state.

    Every member conserves each coarse-cell mean by construction. On one CPU, an interrupted and resumed training gives
    the same weights, bit for bit, as an uninterrupted one.
    """
    report = say or (lambda line: None)
    size = _size_of(recipe)
    target, folder = check_output(recipe, resume)
    plan = prepare(recipe, report)
    torch.manual_seed(settings.seed)
    model = Learned(plan.spec) if start is None else _load_start(plan, start)
    critic = Conditional(size, plan.statistics.spread[0], width, norm=settings.loss == "hinge")
    patches = PatchSet(MapCache(plan.sources, recipe.patches.cache_mb), plan.components, recipe.patches)

    def draw(count: int) -> tuple[Tensor, Batch]:
        # The global random numbers, which a resumed training restores.
        keys = plan.samplers["train"].training_keys(int(torch.randint(2**30, (1,))), count)
        batch = collate([patches[key] for key in keys], plan.spec.factor)
        # Where the reference is missing, both maps are zero.
        return critic.scale(batch.target), batch

    def generate(generator: Any, batch: Batch, count: int) -> Tensor:
        maps = predict(generator, batch, 1)[0]
        return critic.scale(torch.where(torch.isfinite(batch.target), maps, torch.zeros_like(maps)))

    trainer = GANTrainer(model, critic, draw, generate, settings, origin=plan.origin)
    with new_folder(folder, STATE):
        loop = trainer.loop(folder, report)
        try:
            loop.run(resume)
        except Diverged as error:
            if not loop.state.exists():
                raise
            loop.restore()
            steps = {"steps": loop.progress.step, "step": loop.progress.step}
            path = save(folder / LAST_GOOD, trainer.averaged.eval(), record_of(plan, steps))
            raise Diverged(f"{error}; its model is {path}") from None
    averaged = trainer.averaged.cpu().eval()
    skill = _validate(plan, patches, averaged, loop.progress.step, report)
    save(target, averaged, record_of(plan, skill), recipe.output.half)
    return target


def _size_of(recipe: TrainingRecipe) -> int:
    """Return the fine cells per side of the patches, after checking that a critic can be trained on the recipe."""
    noise, outputs, data = recipe.network.noise, recipe.data.outputs, recipe.data
    if not any(noise) or len(outputs) != 1:
        raise OptionError(
            f"expected a network with noise and one output, received noise {list(noise)} and {len(outputs)} outputs; "
            "set network.noise"
        )
    rows, columns = (cells * factor for cells, factor in zip(recipe.patches.size, data.factor, strict=True))
    if rows != columns:
        raise ShapeError(f"expected square patches, received {rows} x {columns} fine cells; set patches.size")
    depth_of(rows)
    return rows


def _load_start(plan: TrainingPlan, start: str | Path) -> Learned:
    model = load(Path(start).expanduser())[0]
    spec = plan.spec
    if replace(model.spec, outputs=spec.outputs, kept=spec.kept) != spec:
        raise OptionError(f"expected a checkpoint of the network of the recipe to start with, received {start}")
    return model.train().requires_grad_(True)


@torch.no_grad()
def _validate(plan: TrainingPlan, patches: PatchSet, model: Learned, step: int, report: Say) -> dict[str, Any]:
    """Return the fair CRPS on the validation split beside the absolute error of the kernel, by source."""
    recipe, spec = plan.recipe, plan.spec
    sums = torch.zeros(len(plan.sources), len(spec.outputs), 3, dtype=torch.float64)
    noise, patches = torch.Generator().manual_seed(recipe.training.seed), patches.with_tiles()
    for key in plan.samplers["validation"].validation_keys(recipe.data.validation.patches):
        batch = collate([patches[key]], spec.factor)
        members = predict(model, batch, VALIDATION_MEMBERS, noise)
        sums[key.source] += probabilistic_errors(batch, members, kernel_prediction(spec, batch))[0]
    score = relative_error(sums, ENSEMBLE.power)
    report(f"step {step}: fair CRPS {score:.4f} of the kernel's absolute error on the validation split")
    return {"skill": score, "step": step, "steps": step, "by_source": skill_rows(plan, sums.tolist())}
