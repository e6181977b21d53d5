"""Generate realistic height maps with a generative adversarial network and a cap on slopes.

    python recipes/09_generate_terrain.py --demo                   (the embedded orography; --out FOLDER, --dry-run)
    python recipes/09_generate_terrain.py RELIEF.nc --average 4    (a NetCDF file of heights in metres)
    python recipes/09_generate_terrain.py recipes/09_generate_terrain.yml

Writes into FOLDER terrain.nc (maps, and an interpolation between two latent vectors), terrain.png (four generated and
four real maps, slopes, spectra), report.json (slopes, spectrum, checkerboard, projection field) and the state of the
training for --resume. --compare trains a second generator without the penalty and reports both.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import downscale
from downscale.errors import DownscaleError
from downscale.fields.gradient import slope
from downscale.losses.adversarial import slope_cap
from downscale.nn.adversarial import Critic, Generator, projection_field
from downscale.training.gan import GANSettings, GANTrainer
from downscale.training.relief import (
    Tiles,
    fraction_below,
    maps_dataset,
    phase_imbalance,
    read_tiles,
    relative_decibels,
    reorient_tiles,
    slope_quantiles,
)

LEVELS = (0.5, 0.9, 0.99)
MARGIN = 0.84
# Colours: with the penalty, without it, real tiles.
STYLES = ("C0-", "C1--", "k-")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("relief", nargs="?", help="heights in metres, or a file of these settings (.yml)")
    parser.add_argument("--demo", action="store_true", help="run a short training on the embedded orography")
    parser.add_argument("--dry-run", action="store_true", help="print tiles and stages without training")
    parser.add_argument("--out", type=Path, default=Path("terrain"), help="folder of the outputs")
    parser.add_argument("--size", type=int, default=None, help="cells per side: 8, 16, 32, 64 (default), ...")
    parser.add_argument("--average", type=int, default=1, help="number of cells per axis to average first")
    parser.add_argument("--cap", type=float, default=None, help="largest slope, m/m; by default the 95 %% quantile")
    parser.add_argument("--penalty", type=float, default=300.0, help="weight of the slope cap")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--loss", choices=("hinge", "wgan-gp"), default="hinge")
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--compare", action="store_true")
    chosen = parser.parse_args()
    if str(chosen.relief).endswith((".yml", ".yaml")):
        settings = yaml.safe_load(Path(chosen.relief).read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or "relief" not in settings or not set(settings) <= set(vars(chosen)):
            parser.error(f"expected relief and perhaps others of {', '.join(vars(chosen))}, received {settings}")
        parser.set_defaults(**settings)
        chosen = parser.parse_args()
        chosen.relief = settings["relief"]
    if chosen.demo == (chosen.relief is not None):
        parser.error("expected RELIEF, or --demo")
    try:
        made(chosen)
    except DownscaleError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


def made(chosen: argparse.Namespace) -> None:
    """Read, train, report, write."""
    relief = downscale.sample.open("north_america_relief") if chosen.demo else downscale.open_dataset(chosen.relief)
    size = chosen.size or (16 if chosen.demo else 64)
    tiles = read_tiles(relief, size, average=chosen.average, least=-400.0 if chosen.demo else 0.0)
    cap = chosen.cap or float(slope_quantiles(tiles.heights, tiles.spacing, (0.95,))[0])
    print(f"{len(tiles.heights)} tiles of {size} x {size} cells of {tiles.step[0]:.0f} x {tiles.step[1]:.0f} m, "
          f"heights vary by {tiles.scale:.0f} m; slopes are capped at {cap:.3g}")  # fmt: skip
    for each in projection_field(size):
        words = "covers all: the map can be coherent" if each.coherent else "covers part of it"
        print(f"  stage {each.stage}: one initial cell reaches {each.reach} of {each.size} cells, {words}")
    if chosen.dry_run:
        return
    found, every = {}, {}
    for label, weight in {"with penalty": chosen.penalty, **({"without": 0.0} if chosen.compare else {})}.items():
        generator = trained(tiles, cap, weight, chosen, chosen.out / label.replace(" ", "_"))
        maps, walk = drawn(generator, tiles, chosen.seed)
        found[label], every[label] = judged(maps, tiles, cap), maps
        print(f"{label}: " + ", ".join(f"{name} {value}" for name, value in found[label].items()))
        if label == "with penalty":
            downscale.to_netcdf(maps_dataset(maps, walk, tiles.step), chosen.out / "terrain.nc", overwrite=True)
    draw(every, tiles, cap, chosen.out / "terrain.png")
    found["real"] = judged(tiles.heights, tiles, cap)
    found["projection"] = [{**vars(each), "coherent": each.coherent} for each in projection_field(size)]
    (chosen.out / "report.json").write_text(json.dumps({"cap": cap, **found}, indent=1))
    print("real: " + ", ".join(f"{name} {value}" for name, value in found["real"].items()))
    print(f"wrote {', '.join(str(chosen.out / name) for name in ('terrain.nc', 'terrain.png', 'report.json'))}")


def trained(tiles: Tiles, cap: float, weight: float, chosen: argparse.Namespace, folder: Path) -> Generator:
    """Train a generator of heights in units of the tiles' scale."""
    size = tiles.heights.shape[-1]
    torch.manual_seed(chosen.seed)
    generator = Generator(size, 64, chosen.width)
    critic = Critic(size, 0, 2 * chosen.width, norm=chosen.loss == "hinge")
    real = torch.tensor(tiles.heights / tiles.scale, dtype=torch.float32)

    def draw_real(count: int) -> tuple[torch.Tensor, None]:
        some = real[torch.randint(len(real), (count,))].numpy()
        # Turned with torch's random numbers, which a resumed training restores.
        maps = reorient_tiles(some, np.random.default_rng(int(torch.randint(2**31, (1,)))))
        return torch.from_numpy(maps.copy())[:, None], None

    def make(model: torch.nn.Module, fit: torch.Tensor | None, count: int) -> torch.Tensor:
        latent = torch.randn(count, generator.latent)
        maps = model(latent.to(next(model.parameters()).device))
        return maps - maps.mean(dim=(-2, -1), keepdim=True)

    def penalty(maps: torch.Tensor) -> torch.Tensor:
        # Below the cap, so that averaged weights satisfy it too.
        return weight * slope_cap(maps * tiles.scale, tiles.spacing, MARGIN * cap)

    steps = (300 if chosen.demo else 1500) if chosen.steps is None else chosen.steps
    how = GANSettings(
        steps=steps, loss=chosen.loss, seed=chosen.seed, critic_steps=1 if chosen.loss == "hinge" else 3
    )
    trainer = GANTrainer(generator, critic, draw_real, make, how, penalty if weight else None)
    return trainer.run(folder, chosen.resume, print).cpu()


def drawn(generator: Generator, tiles: Tiles, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 64 maps in metres, and eight along the great circle between the first two latent vectors."""
    random = torch.Generator().manual_seed(seed + 1)
    z = torch.randn(64, generator.latent, generator=random)
    angle = torch.arccos(torch.nn.functional.cosine_similarity(z[0], z[1], dim=0))
    share = torch.linspace(0, 1, 8)[:, None]
    way = (torch.sin((1 - share) * angle) * z[0] + torch.sin(share * angle) * z[1]) / torch.sin(angle)
    with torch.no_grad():
        maps, walk = (generator(each)[:, 0].double().numpy() * tiles.scale for each in (z, way))
    return tuple(each - each.mean(axis=(-2, -1), keepdims=True) for each in (maps, walk))


def judged(maps: np.ndarray, tiles: Tiles, cap: float) -> dict[str, object]:
    """Return slopes under the cap, quantiles, spectrum against real tiles, checkerboard, and spread."""
    _, power = relative_decibels(maps, tiles.heights)
    return {
        "share_under_cap": round(fraction_below(maps, tiles.spacing, cap), 4),
        "slope_quantiles": [round(float(q), 4) for q in slope_quantiles(maps, tiles.spacing, LEVELS)],
        "spectrum_db": {"mean": round(float(power.mean()), 2), "largest": round(float(np.abs(power).max()), 2)},
        "checkerboard": round(phase_imbalance(maps), 3),
        "spread": round(float(maps.std(axis=0).mean() / tiles.heights.std(axis=0).mean()), 3),
    }


def draw(every: dict[str, np.ndarray], tiles: Tiles, cap: float, path: Path) -> None:
    """Plot four generated and four real maps, shaded from the north-west, with slopes and spectra."""
    from matplotlib.colors import LightSource

    from downscale.plot.style import new_figure

    figure = new_figure(10, 8, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(2, 1))
    light = LightSource(315, 40)
    real = tiles.heights[np.linspace(0, len(tiles.heights) - 1, 4).astype(int)]
    limit = float(np.quantile(np.abs(tiles.heights), 0.995))
    for row, (label, some) in enumerate((("generated", every["with penalty"][:4]), ("real", real))):
        for column, heights in enumerate(some):
            panel = upper.add_subplot(2, 4, 4 * row + column + 1)
            shaded = light.shade(heights, cmap=_colours(), vmin=-limit, vmax=limit, dx=tiles.step[1], dy=tiles.step[0],
                                 blend_mode="soft")  # fmt: skip
            panel.imshow(shaded, interpolation="nearest")
            panel.set_title(label, fontsize=10)
            panel.set_axis_off()
    _slopes(lower.add_subplot(1, 2, 1), {**every, "real": tiles.heights}, tiles, cap)
    _spectra(lower.add_subplot(1, 2, 2), every, tiles)
    figure.savefig(path, dpi=100)


def _slopes(panel: Any, every: dict[str, np.ndarray], tiles: Tiles, cap: float) -> None:
    """Plot the distribution of slopes."""
    edges = np.linspace(0, 2 * cap, 61)
    for (label, maps), style in zip(every.items(), STYLES if len(every) == 3 else STYLES[::2], strict=True):
        shares = np.histogram(slope(maps, tiles.spacing), edges)[0] / maps.size
        panel.semilogy((edges[1:] + edges[:-1]) / 2, np.maximum(100 * shares, 1e-3), style, label=label)
    panel.axvline(cap, color="0.4", lw=1)
    panel.set(xlabel="slope, m/m (line: the cap)", ylabel="cells, %", ylim=(1e-3, None))
    panel.legend(frameon=False, fontsize=8)


def _spectra(panel: Any, every: dict[str, np.ndarray], tiles: Tiles) -> None:
    """Plot power relative to real tiles."""
    for (label, maps), style in zip(every.items(), STYLES, strict=False):
        waves, power = relative_decibels(maps, tiles.heights)
        panel.semilogx(1e-3 * waves * np.mean(tiles.step), power, style, label=label)
    panel.axhline(0, color="k", lw=1)
    panel.set(xlabel="wavelength, km", ylabel="power over real tiles, dB")
    panel.invert_xaxis()
    panel.legend(frameon=False, fontsize=8)


def _colours() -> object:
    import matplotlib

    return matplotlib.colormaps["gist_earth"]


if __name__ == "__main__":
    sys.exit(main())
