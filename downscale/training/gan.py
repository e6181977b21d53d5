"""Adversarial training of a generator and a critic, unconditional or conditional on the coarse field.

The state is one safetensors file, which each save replaces atomically; reading it runs no code. Training stops where
a loss is NaN or infinite, and the last good state stays on disk.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from downscale.engine.device import pick_device
from downscale.errors import InputError, OptionError, ShapeError
from downscale.losses.adversarial import KINDS, critic_loss, generator_loss, gradient_penalty
from downscale.models.checkpoint import load, read_tensors, read_texts, save, write_tensors
from downscale.nn.adversarial import Critic, depth_of
from downscale.nn.learned import Learned
from downscale.training.fit import (
    Prepared,
    checkpoint_path,
    folder_of,
    new_folder,
    prepare,
    record_of,
    require_no_state,
    skill_rows,
)
from downscale.training.pairs import MapCache
from downscale.training.patches import Batch, PatchSet, collate
from downscale.training.predict import (
    VALIDATION_MEMBERS,
    kernel_alone,
    predict,
    probabilistic_errors,
    relative_error,
    update_averages,
)
from downscale.training.progress import LineTimer, moments_of, remaining, restore_moments
from downscale.training.schema import TrainingRecipe
from downscale.training.tasks import measure_of

FORMAT, WHAT, STATE = "downscale-adversarial", "adversarial training state", "state.safetensors"
UNIDENTIFYING = ("steps", "save_every", "say_every", "device")
# Real maps, and the conditions that generated maps must fit; None for unconditional maps.
Pair = tuple[Tensor, Any]
Say = Callable[[str], None]
# Fraction of the variable's spread above which the critic sees the logarithm of differences.
LINEAR = 0.1
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
    # Steps between two saved states, and between two lines of the log.
    save_every: int = 100
    say_every: int = 50
    seed: int = 0  # seed of all random numbers
    device: str = "auto"  # of the networks and of the maps they process, as in :func:`downscale.downscale`

    def __post_init__(self) -> None:
        if self.loss not in KINDS:
            raise OptionError(f"expected an adversarial loss among {', '.join(KINDS)}, received {self.loss!r}")
        for name in ("steps", "batch", "critic_steps", "generator_rate", "critic_rate", "save_every", "say_every"):
            if not getattr(self, name) > 0:
                raise OptionError(f"expected {name} above zero, received {getattr(self, name)!r}")
        if not 0 <= self.ema < 1:
            raise OptionError(f"expected ema from 0 to below 1, received {self.ema!r}")


class GANTrainer:
    """A generator and a critic in training; the result is ``averaged``, the generator with averaged weights.

    ``draw`` returns a batch of real maps and their conditions (None for unconditional maps), on the CPU. ``make``
    generates random maps from a generator, conditions on its device, and a number of maps. ``penalty`` is added to the
    loss of the generator. :meth:`load` refuses a state of another ``origin``, a hash of settings and data.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        draw: Callable[[int], Pair],
        make: Callable[[nn.Module, Any, int], Tensor],
        how: GANSettings,
        penalty: Callable[[Tensor], Tensor] | None = None,
        origin: str = "",
    ) -> None:
        self.generator, self.critic, self.draw, self.make, self.how = generator, critic, draw, make, how
        self.penalty, self.step, self.origin, self.diverged = penalty, 0, origin, False
        self.device = pick_device(how.device)
        for module in (generator, critic):
            module.to(self.device)
        self.averaged = copy.deepcopy(generator).requires_grad_(False)
        # No momentum on the mean gradient, because the opponent moves.
        self.optimizers = tuple(
            torch.optim.Adam(module.parameters(), lr=rate, betas=(0.0, 0.99))
            for module, rate in ((generator, how.generator_rate), (critic, how.critic_rate))
        )

    def run(self, folder: Path, resume: bool = False, say: Say | None = None) -> nn.Module:
        """Train to the end and return the averaged generator.

        The folder holds the state, from which a run can resume, and the log ``log.csv``; it is created if missing.
        """
        tell = say or (lambda line: None)
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / STATE
        torch.manual_seed(self.how.seed)
        if resume and state.exists():
            self.load(state)
            tell(f"resumes from step {self.step}")
        _cut_log(folder / "log.csv", self.step)
        timer, start, first_step = LineTimer(), time.monotonic(), self.step
        while self.step < self.how.steps:
            row = self._advance()
            self._require_finite(row, state)
            self.step += 1
            if self.step % self.how.say_every == 0 or self.step == self.how.steps:
                timer.said()
                self._note(folder / "log.csv", row, tell)
            elif timer.due():
                rest = remaining(time.monotonic() - start, (self.step - first_step) / (self.how.steps - first_step))
                tell(f"step {self.step} of {self.how.steps}: generator {row['generator']:.3g}, {rest}")
            if self.step % self.how.save_every == 0 or self.step == self.how.steps:
                self.save(state)
        return self.averaged

    def _require_finite(self, row: dict[str, float], state: Path) -> None:
        """Raise an InputError for NaN or infinite losses or weights, before the state is replaced."""
        faults = [f"{name} {value}" for name, value in row.items() if not math.isfinite(value)]
        faults += ["weights"] * any(not bool(weight.isfinite().all()) for weight in self.generator.parameters())
        self.diverged = bool(faults)
        if faults:
            hint = f"the last good state is {state}" if state.exists() else "there is no state yet"
            raise InputError(
                f"expected finite losses and weights, received {', '.join(faults)} at step {self.step}; {hint}: start "
                "again with smaller learning rates, or resume from it"
            )

    def _advance(self) -> dict[str, float]:
        """Update the critic, then the generator; return the losses and the ratio of spreads."""
        generator, critic, how = self.generator, self.critic, self.how
        for _ in range(how.critic_steps):
            real, fit = self._draw_real()
            with torch.no_grad():
                maps = self.make(generator, fit, how.batch)
            loss = critic_loss(critic(real, fit), critic(maps, fit), how.loss)
            if how.loss == "wgan-gp":
                mix = torch.rand(len(real), 1, 1, 1).to(self.device)
                gradient_term = gradient_penalty(_conditional_scores(critic, fit), real, maps, mix)
                loss = loss + how.gradient_weight * gradient_term
            _descend(self.optimizers[1], loss)
        real, fit = self._draw_real()
        maps = self.make(generator, fit, how.batch)
        g_loss = generator_loss(critic(maps, fit))
        penalty = maps.new_zeros(()) if self.penalty is None else self.penalty(maps)
        _descend(self.optimizers[0], g_loss + penalty)
        update_averages(self.averaged, generator, min(how.ema, (self.step + 1) / (self.step + 10)))
        with torch.no_grad():
            other_maps = None if fit is None else self.make(generator, fit, how.batch)
            spread = float(spread_of(maps, real, other_maps))
        return {"critic": float(loss.detach()), "generator": float(g_loss.detach()), "penalty": float(penalty.detach()),
                "spread": spread}  # fmt: skip

    def _draw_real(self) -> Pair:
        real, fit = self.draw(self.how.batch)
        return real.to(self.device), fit.to(self.device) if hasattr(fit, "to") else fit

    def _note(self, log: Path, row: dict[str, float], tell: Say) -> None:
        words = ", ".join(f"{name} {value:.3g}" for name, value in row.items())
        warning = "; maps are too similar: the generator collapses" if row["spread"] < 0.2 else ""
        tell(f"step {self.step} of {self.how.steps}: {words}{warning}")
        is_new = not log.exists()
        with log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", *row])
            writer.writerow([self.step, *row.values()])

    def save(self, path: Path) -> None:
        """Write the state of the training."""
        parts = {"generator": self.generator.state_dict(), "critic": self.critic.state_dict(),
                 "averaged": self.averaged.state_dict(), "moments0": moments_of(self.optimizers[0]),
                 "moments1": moments_of(self.optimizers[1])}  # fmt: skip
        tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        texts = {"format": FORMAT, "step": str(self.step), "settings": self._identity()}
        write_tensors(path, {**tensors, "random": torch.get_rng_state()}, texts)

    def load(self, path: Path) -> None:
        """Resume from a state that :meth:`save` wrote."""
        texts = read_texts(path, WHAT)
        if texts.get("format") != FORMAT:
            raise InputError(f"expected an {WHAT}, received {path} of another kind; choose another folder")
        if texts.get("settings") != self._identity():
            raise InputError(f"expected the settings and data that {path} was begun with, received others; remove it")
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in read_tensors(path, WHAT).items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        try:
            for module, part in ((self.generator, "generator"), (self.critic, "critic"), (self.averaged, "averaged")):
                module.load_state_dict(parts[part])
        except (KeyError, RuntimeError):
            raise InputError(f"expected the networks that {path} was begun with, received others; remove it") from None
        for optimizer, part in zip(self.optimizers, ("moments0", "moments1"), strict=True):
            restore_moments(optimizer, parts.get(part, {}))
        torch.set_rng_state(parts["random"][""])
        self.step = int(texts["step"])

    def _identity(self) -> str:
        # The length of the training and the frequency of log lines do not identify it.
        how = {name: value for name, value in asdict(self.how).items() if name not in UNIDENTIFYING}
        return json.dumps({**how, "origin": self.origin}, sort_keys=True)


def _conditional_scores(critic: nn.Module, fit: Any) -> Callable[[Tensor], Tensor]:
    """Return the scores of maps, given the conditions that they must fit."""

    def scores(maps: Tensor) -> Tensor:
        made: Tensor = critic(maps, fit)
        return made

    return scores


def resume_hint(folder: Path) -> str:
    """Return a message on the step from which an interrupted training can resume."""
    state = folder / STATE
    if not state.is_file():
        return "no step is kept yet; run again"
    return f"step {read_texts(state, WHAT)['step']} is kept; run again with --resume"


def spread_of(maps: Tensor, real: Tensor, other: Tensor | None = None) -> Tensor:
    """Return the spread of maps relative to its expected value: 1 is ideal, 0 is a collapse.

    For unconditional maps, the spread is the difference between successive maps relative to that of real maps. For
    conditional maps, it is the difference from ``other`` maps of the same condition, relative to the difference from
    the truth; the two are equal for a reliable ensemble.
    """
    if other is None:
        return maps.std(dim=0).mean() / real.std(dim=0).mean().clamp_min(1e-12)
    return (maps - other).abs().mean() / (maps - real).abs().mean().clamp_min(1e-12)


def _cut_log(log: Path, step: int) -> None:
    """Truncate a log after a step, because later steps are repeated on resuming."""
    if log.exists():
        head, *rows = log.read_text(encoding="utf-8").splitlines()
        lines = [row for row in rows if int(row.split(",")[0]) <= step]
        log.write_text("".join(f"{line}\n" for line in (head, *lines)), encoding="utf-8")


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
        return self.critic(maps, self.scaled(batch.cells.broadcast_to_fine(batch.coarse)))

    def scaled(self, values: Tensor) -> Tensor:
        """Return values scaled for the critic: large ones by their logarithm; missing ones as zero."""
        ratio = torch.where(torch.isfinite(values), values, torch.zeros_like(values)) / (LINEAR * self.spread)
        return ratio.sign() * torch.log1p(ratio.abs())


def train_adversarial(
    recipe: TrainingRecipe, how: GANSettings, start: str | Path | None = None, resume: bool = False, width: int = 16,
    say: Say | None = None,
) -> Path:  # fmt: skip
    """Train a generator of ensemble members against a critic, write its checkpoint and return the path.

    Of the training block of the recipe, only the batch size counts. ``start`` is a checkpoint of the same model as
    initial weights, such as one trained with the CRPS; ``width`` is that of the critic. Fine patches must be squares of
    8, 16, 32, ... cells per side. If a loss is NaN or infinite, the model of the last good state is saved beside the
    state.

    Every member conserves each coarse-cell mean by construction. On one CPU, an interrupted and resumed training gives
    the same weights, bit for bit, as an uninterrupted one.
    """
    tell = say or (lambda line: None)
    size = _size_of(recipe)
    target = checkpoint_path(recipe, resume)
    folder = folder_of(recipe, target)
    state = folder / STATE
    require_no_state(recipe, state, resume)
    prepared = prepare(recipe, tell)
    torch.manual_seed(how.seed)
    learned = Learned(prepared.spec) if start is None else _load_start(prepared, start)
    critic = Conditional(size, prepared.statistics.spread[0], width, norm=how.loss == "hinge")
    patches = PatchSet(MapCache(prepared.sources, recipe.patches.cache_mb), prepared.components, recipe.patches)
    trainer = GANTrainer(
        learned, critic, _real_sampler(prepared, patches, critic), _generator(critic), how, origin=prepared.origin
    )
    try:
        with new_folder(folder, STATE):
            trainer.run(folder, resume, tell)
    except InputError as error:
        if not trainer.diverged or not state.exists():
            raise
        raise InputError(f"{error}; its model is {_last_good(trainer, folder, prepared)}") from None
    trainer.averaged.cpu()
    record = record_of(prepared, _validate(prepared, patches, _model_of(trainer), trainer.step, tell))
    save(target, _model_of(trainer), record, recipe.output.half)
    return target


def _last_good(trainer: GANTrainer, folder: Path, prepared: Prepared) -> Path:
    """Write the model of the last good state and return its path."""
    trainer.load(folder / STATE)
    record = record_of(prepared, {"steps": trainer.step, "step": trainer.step})
    return save(folder / LAST_GOOD, _model_of(trainer), record)


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


def _model_of(trainer: GANTrainer) -> Learned:
    assert isinstance(trainer.averaged, Learned)
    return trainer.averaged.eval()


def _load_start(prepared: Prepared, start: str | Path) -> Learned:
    learned = load(Path(start).expanduser())[0]
    spec, start_spec = prepared.spec, learned.spec
    is_same = replace(start_spec, outputs=spec.outputs, kept=spec.kept) == spec
    if not is_same:
        raise OptionError(f"expected a checkpoint of the network of the recipe to start with, received {start}")
    return learned.train().requires_grad_(True)


def _real_sampler(prepared: Prepared, patches: PatchSet, critic: Conditional) -> Callable[[int], tuple[Tensor, Batch]]:
    """Return a sampler of real patches; it uses torch's random numbers, which a resumed training restores."""
    draws = prepared.samplers["train"]

    def draw(count: int) -> tuple[Tensor, Batch]:
        number = int(torch.randint(2**30, (1,)))
        batch = collate([patches[key] for key in draws.round(number, count)], prepared.spec.factor)
        # Where the reference is missing, both maps are zero.
        return critic.scaled(batch.target), batch

    return draw


def _generator(critic: Conditional) -> Callable[[nn.Module, Any, int], Tensor]:
    def make(model: nn.Module, batch: Batch, count: int) -> Tensor:
        assert isinstance(model, Learned)
        maps = predict(model, batch, 1)[0]
        return critic.scaled(torch.where(torch.isfinite(batch.target), maps, torch.zeros_like(maps)))

    return make


def _validate(prepared: Prepared, patches: PatchSet, learned: Learned, step: int, tell: Say) -> dict[str, Any]:
    """Return the fair CRPS on the validation split beside the absolute error of the kernel, by source."""
    recipe = prepared.recipe
    sums = torch.zeros(len(prepared.sources), len(prepared.spec.outputs), 3, dtype=torch.float64)
    noise, patches = torch.Generator().manual_seed(recipe.training.seed), patches.tiled()
    for key in prepared.samplers["validation"].fixed(recipe.data.validation.patches):
        batch = collate([patches[key]], prepared.spec.factor)
        with torch.no_grad():
            members = predict(learned, batch, VALIDATION_MEMBERS, noise)
        sums[key.source] += probabilistic_errors(batch, members, kernel_alone(prepared.spec, batch))[0]
    score = relative_error(sums, measure_of(prepared.spec).power)
    tell(f"step {step}: fair CRPS {score:.4f} of the kernel's absolute error on the validation split")
    return {"skill": score, "step": step, "steps": step, "by_source": skill_rows(prepared, sums.tolist())}
