"""Generator, critic and their training: slopes, resuming to the bit, stopping where losses are no number."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_fields import plane

import downscale
from downscale.errors import InputError, OptionError, ShapeError
from downscale.fields.gradient import Spacing
from downscale.losses.adversarial import critic_loss, gradient_penalty, slope_cap
from downscale.nn.adversarial import Critic, Generator, blur_binomial, depth_of, projection_field
from downscale.training.gan import GANSettings, GANTrainer, spread_of
from downscale.training.relief import (
    fraction_below,
    maps_dataset,
    phase_imbalance,
    read_tiles,
    relative_decibels,
    reorient_tiles,
    uniform_spacing,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def trainer(seed: int = 0, penalty: bool = False, **settings: object) -> GANTrainer:
    torch.manual_seed(5)
    generator, critic = Generator(16, 8, 4), Critic(16, 0, 4, norm=settings.get("loss") != "wgan-gp")
    wave = torch.sin(torch.arange(16.0) * 0.7)

    def draw(count: int) -> tuple[torch.Tensor, None]:
        return torch.randn(count, 1, 1, 1) * wave[None, None, :, None] * wave, None

    def make(model: torch.nn.Module, fit: torch.Tensor | None, count: int) -> torch.Tensor:
        return model(torch.randn(count, 8))

    how = GANSettings(**{"steps": 6, "batch": 4, "round": 2, "seed": seed, **settings})
    spacing = uniform_spacing(16, (1.0, 1.0))
    cap = (lambda maps: slope_cap(maps, spacing, 0.1)) if penalty else None
    return GANTrainer(generator, critic, draw, make, how, cap)


@pytest.mark.parametrize("loss", ["hinge", "wgan-gp"])
def test_critics_name_what_maps_are_to_fit_as_they_like(loss: str, tmp_path: Path) -> None:
    """A critic of up-scaled maps takes the batch they were made for, that of height maps nothing."""

    class Fitting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critic = Critic(16, 1, 4, norm=False)

        def forward(self, maps: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.critic(maps, batch["coarse"][: len(maps)])

    one, coarse, critic = trainer(loss=loss, steps=1), {"coarse": torch.ones(4, 1, 16, 16)}, Fitting()
    before = [value.clone() for value in critic.parameters()]
    GANTrainer(one.model, critic, lambda count: (one.draw(count)[0], coarse), one.generate, one.settings).run(tmp_path)
    assert any(bool((a != b).any()) for a, b in zip(before, critic.parameters(), strict=True))


@pytest.mark.parametrize("size", [8, 16, 64])
def test_sizes_and_reaches(size: int) -> None:
    model = Generator(size, 6, 4)
    assert model(torch.randn(2, 6)).shape == (2, 1, size, size)
    grown = projection_field(size)
    assert [each.size for each in grown] == [4 * 2 ** (i + 1) for i in range(depth_of(size))]
    # The planner's word is kept by the network: what one of the first cells moves after the first stage.
    stage, x = model.stages[0].double(), torch.randn(1, model.stages[0].up.in_channels, 21, 21, dtype=torch.float64)
    other = x.clone()
    other[..., 10, 10] += 1
    moved = (stage(x) != stage(other)).any(dim=1)[0].nonzero()
    assert int(np.ptp(moved[:, 0].numpy())) + 1 == grown[0].reach


def test_no_checkerboard_is_built_in() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        maps = Generator(32, 16, 8)(torch.randn(64, 16))[:, 0].double().numpy()
    assert phase_imbalance(maps) < 0.2
    # What is the same in all phases stays so, and a checkerboard of features is nothing after it.
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert float(blur_binomial(board.expand(1, 1, 8, 8))[..., 1:-1, 1:-1].abs().max()) == 0
    assert torch.equal(blur_binomial(torch.ones(1, 2, 8, 8)), torch.ones(1, 2, 8, 8))


@pytest.mark.parametrize("size", [0, 4, 12, 63])
def test_sizes_that_no_stages_make(size: int) -> None:
    with pytest.raises(ShapeError, match=f"expected a size of 8, 16, 32, 64, \\.\\.\\. cells, received {size}"):
        Generator(size)


def test_the_critic_sees_gradients_by_fixed_stencils() -> None:
    critic = Critic(16, 1, 4)
    assert "stencil" not in dict(critic.named_parameters())
    plane_map = torch.arange(16.0).expand(1, 1, 16, 16)
    east = torch.nn.functional.conv2d(plane_map, critic.stencil[:1])
    assert torch.allclose(east, torch.ones_like(east))
    maps, fit = torch.randn(3, 1, 16, 16), torch.randn(3, 1, 16, 16)
    assert critic(maps, fit).shape == (3,)
    assert not torch.equal(critic(maps, fit), critic(maps, fit + 1))


def test_losses_are_those_of_their_definition() -> None:
    real, made = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.5])
    assert float(critic_loss(real, made)) == pytest.approx(0.25 + 0.75)
    assert float(critic_loss(real, made, "wgan-gp")) == pytest.approx(-1.25 - 1.25)
    share = torch.rand(4, 1, 1, 1)
    tall = torch.randn(4, 1, 8, 8)
    penalty = gradient_penalty(lambda maps: 2 * maps.flatten(1)[:, 0], tall, -tall, share)
    assert float(penalty) == pytest.approx(1.0)


def test_the_cap_is_physical() -> None:
    spacing = Spacing.of(plane(12, 12, 90.0))
    heights = 45.0 * torch.arange(12.0, dtype=torch.float64).expand(12, 12)
    assert float(slope_cap(heights, spacing, 0.5)) == pytest.approx(0.0, abs=1e-12)
    assert float(slope_cap(heights, spacing, 0.25)) == pytest.approx(1.0)
    assert fraction_below(heights.numpy(), spacing, 0.5 + 1e-9) == 1
    assert fraction_below(heights.numpy(), spacing, 0.49) == 0
    flat = torch.zeros(6, 6, requires_grad=True)
    slope_cap(flat, uniform_spacing(6, (1.0, 1.0)), 0.1).backward()
    assert bool(torch.isfinite(flat.grad).all())


@pytest.mark.parametrize("loss", ["hinge", "wgan-gp"])
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, loss: str) -> None:
    whole = trainer(loss=loss, penalty=True).run(tmp_path / "whole")
    cut = trainer(loss=loss, penalty=True, steps=4)
    cut.run(tmp_path / "cut")
    said: list[str] = []
    resumed = trainer(loss=loss, penalty=True).run(tmp_path / "cut", resume=True, say=said.append)
    assert said[0] == "resumes from step 4"
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    logs = sorted((tmp_path / "cut" / "logs").rglob("metrics.csv"))
    rows = [row for log in logs for row in csv.DictReader(log.read_text().splitlines())]
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert all(float(row["spread"]) > 0 for row in rows)


@pytest.mark.parametrize("steps", [5, 10])
def test_an_interrupted_training_resumes_with_shorter_rounds(tmp_path: Path, steps: int) -> None:
    """The round that it was in is over then, and the training may be, too."""
    cut = trainer(steps=10, round=8).loop(tmp_path)

    def interrupt() -> bool:
        if cut.progress.step == 5:
            raise KeyboardInterrupt
        return False

    cut._timer.due = interrupt
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    said: list[str] = []
    trainer(steps=steps, round=3).run(tmp_path, resume=True, say=said.append)
    assert said[:2] == ["resumes from step 5", f"step 5 of {steps}"]
    lines = [line.partition(":")[0] for line in said[2:]]
    assert lines == ([] if steps == 5 else ["step 8 of 10", "step 10 of 10"])


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    some = trainer(steps=100)
    draw, draws = some.draw, count()

    def broken(number: int) -> tuple[torch.Tensor, None]:
        maps, fit = draw(number)
        # Two draws a step.
        return (maps * float("nan") if next(draws) >= 8 else maps), fit

    some.draw = broken
    words = r"expected finite losses, errors and weights, received critic nan.* at step 4; .*last good state"
    with pytest.raises(InputError, match=words):
        some.run(tmp_path)
    good = trainer(steps=100)
    loop = good.loop(tmp_path)
    loop.restore()
    assert loop.progress.step == 4
    assert all(bool(weight.isfinite().all()) for weight in good.averaged.parameters())


def test_states_of_others_are_refused(tmp_path: Path) -> None:
    trainer().run(tmp_path)
    path = tmp_path / "state.safetensors"
    with pytest.raises(InputError, match=r"expected the recipe, settings and data that .* was begun with, received"):
        trainer(seed=1).loop(tmp_path).restore()
    one = trainer()
    other = GANTrainer(Generator(32, 8, 4), one.critic, one.draw, one.generate, one.settings)
    with pytest.raises(InputError, match=r"expected the networks that .* was begun with"):
        other.loop(tmp_path).restore()
    path.write_bytes(b"not a state")
    with pytest.raises(InputError, match="training state"):
        trainer().loop(tmp_path).restore()


def test_settings_are_checked() -> None:
    with pytest.raises(OptionError, match="expected an adversarial loss among hinge, wgan-gp, received 'vanilla'"):
        GANSettings(loss="vanilla")
    with pytest.raises(OptionError, match="expected batch above zero, received 0"):
        GANSettings(batch=0)


def test_collapse_is_seen() -> None:
    alike = torch.randn(1, 1, 8, 8).expand(5, 1, 8, 8)
    real = torch.randn(50, 1, 8, 8)
    assert float(spread_of(alike, real)) == 0
    assert float(spread_of(torch.randn(50, 1, 8, 8), real)) == pytest.approx(1, abs=0.1)
    # Members that are drawn as the truth is differ from each other as from it.
    assert float(spread_of(torch.randn(50, 1, 8, 8), real, torch.randn(50, 1, 8, 8))) == pytest.approx(1, abs=0.1)
    assert float(spread_of(alike, real[:5], alike)) == 0


def test_tiles_of_real_relief() -> None:
    relief = downscale.sample.open("north_america_relief", chunks=None)
    tiles = read_tiles(relief, 16, least=-400.0)
    np.testing.assert_allclose(tiles.heights.mean(axis=(1, 2)), 0, atol=1e-9)
    assert tiles.scale == pytest.approx(tiles.heights.std())
    assert 30e3 < tiles.step[0] < 40e3
    assert np.sort(reorient_tiles(tiles.heights[:3], np.random.default_rng(0)), axis=None) == pytest.approx(
        np.sort(tiles.heights[:3], axis=None)
    )
    coarse = read_tiles(relief, 16, least=-400.0, average=2)
    assert coarse.step[0] == pytest.approx(2 * tiles.step[0], rel=0.05)
    with pytest.raises(InputError, match="expected at least 4 tiles of 64 x 64 cells above 3000 m, received 0"):
        read_tiles(relief, 64, least=3000.0)


def test_what_is_said_of_maps() -> None:
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((40, 32, 32))
    assert phase_imbalance(maps) < 0.1
    board = maps + 2.0 * (np.indices((32, 32)).sum(axis=0) % 2)
    assert phase_imbalance(board) > 0.3
    assert phase_imbalance(np.zeros((2, 16, 16))) == 0
    _, power = relative_decibels(2 * maps, maps)
    np.testing.assert_allclose(power, 20 * np.log10(2))


def test_maps_have_coordinates(tmp_path: Path) -> None:
    ds = maps_dataset(np.zeros((3, 8, 8)), np.ones((2, 8, 8)), (90.0, 60.0))
    downscale.to_netcdf(ds, tmp_path / "terrain.nc")
    back = downscale.open_dataset(tmp_path / "terrain.nc", chunks=None)
    assert back.height.dims == ("realization", "y", "x")
    assert float(downscale.cell_area(back).mean()) == pytest.approx(5400.0)


@pytest.mark.slow
def test_the_script_writes_maps_a_picture_and_a_report(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(root / "recipes" / "09_generate_terrain.py"), "--demo", "--size", "16", "--compare"]
    command = [*line, "--width", "4", "--out", str(tmp_path), "--steps"]
    for more in (["2"], ["4", "--resume"]):
        done = subprocess.run([*command, *more], env=env, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
    assert "resumes from step 2" in done.stdout
    assert (tmp_path / "terrain.png").stat().st_size > 10_000
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["real"]["share_under_cap"] == pytest.approx(0.95, abs=1e-3)
    assert set(report) == {"cap", "with penalty", "without", "real", "projection"}
    ds = downscale.open_dataset(tmp_path / "terrain.nc", chunks=None)
    assert ds.height.shape == (64, 16, 16)
    bad = subprocess.run([*line, "--steps", "0"], env=env, capture_output=True, text=True, timeout=300)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
