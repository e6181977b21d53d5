"""Artefacts of upsampling layers, trained alike on one real field, and the effect of each fix.

    python benchmarks/artefacts.py                                       # the embedded orography
    python benchmarks/artefacts.py FILE.nc --var tas --write docs/artefacts.md --plot docs/images/artefacts.png

Single layers (x2, one channel) and small networks (x4: two convolutions, then two upsampling layers by 2) are
trained with the same data, seed, steps and loss. Held-out maps are scored by error and checkerboard. Layers and
networks are scored by their response to constants, to the long waves of these maps, to plane waves and to shifted
fields. Rows of one table differ only in the upsampling layer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import downscale
from downscale.cf.horizontal import horizontal
from downscale.losses.spatial import kernel_smoothness
from downscale.metrics.checkerboard import checkerboard
from downscale.metrics.response import equivariance, measure_response, plane, probe
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.layers import HALVINGS, DilatedConv2d, GlobalAttention, Shuffle, WindowedAttention, convolution
from downscale.nn.separable import operator
from downscale.nn.upsampling import (
    ConsistentShuffle,
    resize_stage,
    shuffle_stage,
    smooth_layers,
    sobolev_stage,
    upsampling_layers,
)
from downscale.plot.style import new_figure

WIDTH, PATCH, BATCH, EDGE, HALO = 16, 56, 16, 12, 16
# Cycles per coarse cell below which waves are long (one standard deviation of a Gaussian).
LONG = 1 / 24
START, END = "<!-- artefacts -->", "<!-- end of artefacts -->"


def plain(kernel: int) -> Callable[[int, int], nn.Module]:
    """An unconstrained transposed convolution."""

    def make(channels: int, out: int) -> nn.Module:
        padding = (kernel - 1) // 2
        return nn.ConvTranspose2d(channels, out, kernel, 2, padding, 2 + 2 * padding - kernel)

    return make


def bound(init: str) -> Callable[[int, int], nn.Module]:
    def make(channels: int, out: int) -> nn.Module:
        return ConservativeConvTranspose2d(
            channels, out, 6, 2, law="phase", gain="free", bias=True, init=init, padding_mode="zeros"
        )

    return make


def raw_shuffle(channels: int, out: int) -> nn.Module:
    return nn.Sequential(convolution(channels, out * 4), Shuffle((2, 2)))


class Layer(nn.Module):
    """One upsampling layer by 2 with one channel."""

    factor = 2

    def __init__(self, up: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.up = up(1, 1)

    def forward(self, coarse: Tensor) -> Tensor:
        """Refine (B, 1, ny, nx)."""
        return self.up(coarse)


class Small(nn.Module):
    """Two convolutions and two upsampling layers by 2, with optional layers between and after them."""

    factor = 4

    def __init__(
        self, up: Callable[[int, int], nn.Module], after: Callable[[int], nn.Module] = lambda channels: nn.Identity(),
        between: Callable[[int], nn.Module] = lambda channels: nn.Identity(), base: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.trunk = nn.Sequential(
            convolution(1, WIDTH), nn.SiLU(), convolution(WIDTH, WIDTH), nn.SiLU(), between(WIDTH)
        )
        self.up = nn.Sequential(up(WIDTH, WIDTH), after(WIDTH), nn.SiLU(), up(WIDTH, 1), after(1))
        self.base = base
        self.kernels: dict[tuple[int, int], Any] = {}

    def forward(self, coarse: Tensor) -> Tensor:
        """Refine (B, 1, ny, nx)."""
        fine = self.up(self.trunk(coarse))
        if self.base is None:
            return fine
        shape = (coarse.shape[-2], coarse.shape[-1])
        if shape not in self.kernels:
            self.kernels[shape] = operator(self.base, plane(*shape), self.factor)
        with torch.no_grad():
            under = self.kernels[shape](coarse)
        return under + fine


def halved(name: str) -> Callable[[int], nn.Module]:
    """Halve and restore the number of cells, as encoders do; the result depends on the position of the field."""
    return lambda width: nn.Sequential(HALVINGS[name](width, width), nn.SiLU(), resize_stage(width, width, (2, 2)))


def dilated(distance: int) -> Callable[[int], nn.Module]:
    def make(channels: int) -> nn.Module:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return DilatedConv2d(channels, channels, (2, 2), dilation=(distance, distance))

    return make


def sobolev_layer(channels: int, out: int) -> nn.Module:
    """A layer with the seven-cell stencil of the method ``sobolev``."""
    return ConservativeConvTranspose2d(
        channels, out, 14, 2, law=("phase", "cell"), init="sobolev", padding_mode="zeros"
    )


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain ConvTranspose2d, k=5 s=2": lambda: Layer(plain(5)),
    "divisible kernel, k=4 s=2": lambda: Layer(plain(4)),
    "divisible kernel, k=6 s=2": lambda: Layer(plain(6)),
    "resize, then convolution": lambda: Layer(lambda c, o: resize_stage(c, o, (2, 2))),
    "pixel shuffle": lambda: Layer(raw_shuffle),
    "pixel shuffle, ICNR": lambda: Layer(lambda c, o: shuffle_stage(c, o, (2, 2))),
    "pixel shuffle under the phase law": lambda: Layer(lambda c, o: ConsistentShuffle(c, o, (2, 2))),
    "ours: phase law": lambda: Layer(bound("random")),
    "ours: phase law, Sobolev": lambda: Layer(sobolev_layer),
}
WAYS: dict[str, Callable[[], nn.Module]] = {
    "plain ConvTranspose2d, k=5 s=2": lambda: Small(plain(5)),
    "divisible kernel, k=4 s=2": lambda: Small(plain(4)),
    "resize, then convolution": lambda: Small(lambda c, o: resize_stage(c, o, (2, 2))),
    "pixel shuffle": lambda: Small(raw_shuffle),
    "pixel shuffle, ICNR": lambda: Small(lambda c, o: shuffle_stage(c, o, (2, 2))),
    "pixel shuffle under the phase law": lambda: Small(lambda c, o: ConsistentShuffle(c, o, (2, 2))),
    "ours: phase law": lambda: Small(bound("random")),
    "ours: phase law, Sobolev": lambda: Small(bound("sobolev"), base="sobolev"),
    "ours: Sobolev on features, then convolution": lambda: Small(lambda c, o: sobolev_stage(c, o, (2, 2))),
}
CURES: dict[str, Callable[[], nn.Module]] = {
    "dilated after it, d=3": lambda: Small(plain(5), dilated(3)),
    "dilated after it, d=2 (warned of)": lambda: Small(plain(5), dilated(2)),
    "windowed attention before it": lambda: Small(plain(5), between=lambda c: WindowedAttention(c, 5)),
    "global attention before it": lambda: Small(plain(5), between=lambda c: GlobalAttention(c)),
    "penalty on roughness": lambda: Small(plain(5)),
}
POOLS: dict[str, Callable[[], nn.Module]] = {
    "halved by stride, then ours": lambda: Small(bound("sobolev"), between=halved("strided")),
    "halved by blur pooling, then ours": lambda: Small(bound("sobolev"), between=halved("blur")),
}


class Trained:
    """A network with the interface of an upsampling method."""

    multiple_of, laws = 2, frozenset()

    def __init__(self, network: Any, halo: tuple[int, int] | None = (HALO, HALO)) -> None:
        self.network, self.halo, self.factor = network.eval(), halo, (network.factor, network.factor)

    def __call__(self, coarse: Tensor, place: object = None) -> Tensor:
        with torch.no_grad():
            return self.network(coarse.float().unsqueeze(1))[:, 0].double()


def read(path: str | None, name: str | None, maps: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Return normalised fine maps for training and for validation, shape (N, ny, nx) each."""
    ds = downscale.sample.open("north_america_relief") if path is None else downscale.open_dataset(path)
    variable = ds[name or ("orog" if path is None else str(next(iter(ds.data_vars))))]
    values = np.asarray(variable.transpose(..., *horizontal(ds).dims), dtype=np.float64)
    values = values.reshape(-1, *values.shape[-2:])
    if len(values) == 1:
        half = values.shape[-1] // 8 * 4
        seen, held = values[..., :half], values[..., half : 2 * half]
    else:
        # The last half of the maps is held out.
        seen, held = np.split(values, [len(values) // 2])[:2]
        held = held[:: max(len(held) // maps, 1)][:maps]
    rows, columns = (n // 4 * 4 for n in seen.shape[-2:])
    mean, std = seen.mean(), seen.std()
    both = [((part - mean) / std)[:, :rows, :columns].astype(np.float32) for part in (seen, held)]
    return both[0], both[1], f"{variable.name} of {Path(path).name if path else 'the embedded relief'}"


def pooled(fine: np.ndarray, factor: int) -> np.ndarray:
    n, rows, columns = fine.shape
    return fine.reshape(n, rows // factor, factor, columns // factor, factor).mean((2, 4))


def long_waves(maps: np.ndarray) -> np.ndarray:
    """Return maps without their shorter waves, from Fourier series of maps mirrored at their edges."""
    wide = np.concatenate([maps, maps[..., ::-1]], axis=-1)
    wide = np.concatenate([wide, wide[..., ::-1, :]], axis=-2)
    y, x = (np.fft.fftfreq(n) for n in wide.shape[-2:])
    gain = np.exp(-(y[:, None] ** 2 + x**2) / (2 * LONG**2))
    return np.fft.ifft2(np.fft.fft2(wide) * gain).real[..., : maps.shape[-2], : maps.shape[-1]]


def train(network: Any, fine: np.ndarray, steps: int, roughness: float, seed: int = 0) -> None:
    """Train with Adam on squared errors, with the same patches for every network."""
    rng, factor = np.random.default_rng(seed), network.factor
    # A single layer is a small problem with poor initial weights.
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2 if isinstance(network, Layer) else 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    size = min(PATCH, *fine.shape[1:])
    for _ in range(steps):
        place = [
            (rng.integers(len(fine)), *(4 * rng.integers((n - size) // 4 + 1) for n in fine.shape[1:]))
            for _ in range(BATCH)
        ]
        truth = np.stack([fine[i, y : y + size, x : x + size] for i, y, x in place])
        error = network(torch.from_numpy(pooled(truth, factor))[:, None])[:, 0] - torch.from_numpy(truth)
        loss = (error[:, 8:-8, 8:-8] ** 2).mean()
        if roughness:
            loss = loss + roughness * kernel_smoothness([each.layer.weight for each in upsampling_layers(network)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def judge(make: Callable[[Any], Any], held: np.ndarray, factor: int) -> dict[str, float]:
    """Return all scores of one upsampling method, built for a grid by ``make``."""
    coarse = pooled(held, factor).astype(np.float64)
    subject = make(plane(*coarse.shape[-2:]))
    fine, smooth = (np.asarray(subject(torch.from_numpy(maps), None)) for maps in (coarse, long_waves(coarse)))
    inside = (slice(None), *(slice(EDGE, -EDGE),) * 2)
    board = checkerboard(fine[inside], factor)
    one = probe(make, 24)
    response, shifted = measure_response(one, level=1.0, amplitude=0.5), equivariance(one)
    return {
        "rmse": float(((fine - held)[inside] ** 2).mean() ** 0.5),
        "index": board.index,
        "p": board.p_value,
        "long": checkerboard(smooth[inside], factor, draws=1).energy,
        "constants": response.checkerboard_of_constants,
        "rejection": response.rejection,
        "equivariance": shifted.mean,
        "displacement": shifted.mean_displacement,
    }


def learned(name: str, make: Callable[[], nn.Module], seen: np.ndarray, held: np.ndarray, steps: int) -> Any:
    torch.manual_seed(0)
    network, begin = make(), time.perf_counter()
    train(network, seen, steps, 0.03 if "roughness" in name else 0.0)
    row = of_network(network, held, None if "global" in name else (HALO, HALO))
    print(f"{name}, x{network.factor}: {time.perf_counter() - begin:.0f} s, {row}", flush=True)
    return network, row


def of_network(network: Any, held: np.ndarray, halo: tuple[int, int] | None = (HALO, HALO)) -> dict[str, float]:
    return judge(lambda grid: Trained(network, halo), held, network.factor)


def untrained(held: np.ndarray, factor: int) -> dict[str, dict[str, float]]:
    """Return the scores of training-free methods, and of the reference at the image frequencies."""
    rows: dict[str, dict[str, float]] = {"truth": {"rmse": 0.0, "index": checkerboard(held, factor).index}}
    for method in ("bilinear", "sobolev"):
        rows[f"{method}, not trained"] = judge(lambda grid, m=method: operator(m, grid, factor), held, factor)
    return rows


def repairs(
    make: Callable[[], nn.Module], seen: np.ndarray, held: np.ndarray, steps: int, strengths: tuple[float, ...]
) -> dict[str, dict[str, float]]:
    """Train one layer or network, and smooth its kernels with several strengths."""
    network, row = learned("to be repaired", make, seen, held, steps)
    state, rows = {key: value.clone() for key, value in network.state_dict().items()}, {"trained": row}
    for strength in strengths:
        network.load_state_dict(state)
        smooth_layers(network, strength)
        rows[f"smoothed by {strength:g}"] = of_network(network, held)
    return rows


def table(rows: dict[str, dict[str, float]], unit: float) -> str:
    """Return a Markdown table; errors as ratios to bilinear interpolation."""
    head = (
        "| | RMSE / bilinear | checkerboard of constants, dB | of long waves, dB | index of the fields, dB "
        "| image rejection, dB | error of shifts | blob, cells |\n|---|---|---|---|---|---|---|---|"
    )

    def line(name: str, row: dict[str, float]) -> str:
        if "long" not in row:
            return f"| {name} | 0 | | | {row['index']:.1f} | | | |"
        constants = "rounding" if row["constants"] > 120 else f"{-row['constants']:.0f}"
        return (
            f"| {name} | {row['rmse'] / unit:.3f} | {constants} | {row['long']:.0f} | {row['index']:.1f} | "
            f"{row['rejection']:.1f} | {row['equivariance']:.4f} | {row['displacement']:.4f} |"
        )

    return "\n".join([head, *(line(name, row) for name, row in rows.items())])


def draw(rows: dict[str, Any], fields: dict[str, np.ndarray], path: Path) -> None:
    """Plot part of one held-out map minus a smooth map, for each layer, to show artefacts."""
    columns = (len(fields) + 1) // 2
    figure = new_figure(2.5 * columns, 6.6, layout="constrained")
    panels = figure.subplots(2, columns).ravel()
    for panel in panels:
        panel.axis("off")
    unit = rows["bilinear, not trained"]["rmse"]
    reach = float(np.quantile(np.abs(np.concatenate([piece.ravel() for piece in fields.values()])), 0.98))
    for panel, (name, piece) in zip(panels, fields.items(), strict=False):
        panel.imshow(piece, cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")
        words = name.replace(", ", ",\n", 1)
        panel.set_title(f"{words}\nRMSE / bilinear {rows[name]['rmse'] / unit:.2f}", fontsize=8.5)
    figure.savefig(path, dpi=130)


def pictures(networks: dict[str, Any], held: np.ndarray) -> dict[str, np.ndarray]:
    """Return part of the first held-out map from each layer, minus the result of the Sobolev kernel."""
    coarse = torch.from_numpy(pooled(held[:1], 2).astype(np.float64))
    smooth = np.asarray(operator("sobolev", plane(*coarse.shape[-2:]), 2)(coarse))[0]
    middle = [n // 4 * 2 for n in held.shape[1:]]
    piece = tuple(slice(m - 16, m + 16) for m in middle)
    made = {name: np.asarray(Trained(network)(coarse))[0] for name, network in networks.items()}
    return {name: (field - smooth)[piece] for name, field in {"truth": held[0], **made}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="NetCDF with fine maps (default: the embedded orography)")
    parser.add_argument("--var", help="variable of the file")
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--maps", type=int, default=4, help="number of held-out maps")
    parser.add_argument("--layers-only", action="store_true", help="train no networks")
    parser.add_argument("--json", type=Path, help="also write the scores here")
    parser.add_argument("--write", type=Path, help="replace the tables between the marks in this markdown file")
    parser.add_argument("--plot", type=Path, help="plot part of one map here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seen, held, what = read(given.file, given.var, given.maps)
    print(f"{what}: {len(seen)} training maps, {len(held)} held out, {given.steps} steps", flush=True)
    tables: dict[str, dict[str, Any]] = {}
    layers, rows = {}, untrained(held, 2)
    for name, make in LAYERS.items():
        layers[name], rows[name] = learned(name, make, seen, held, given.steps)
    tables["Single layers, x2"] = rows
    if given.plot:
        draw(rows, pictures(layers, held), given.plot)
    plain_layer = LAYERS["plain ConvTranspose2d, k=5 s=2"]
    tables["The plain layer stopped early, repaired by smoothing, x2"] = {
        "bilinear, not trained": rows["bilinear, not trained"],
        **repairs(plain_layer, seen, held, given.steps // 4, (0.0, 0.03, 0.3, 3.0)),
    }
    told(tables, what, given)
    if given.layers_only:
        return
    rows = untrained(held, 4)
    tables["Small networks, x4"] = rows
    for name, make in WAYS.items():
        rows[name] = learned(name, make, seen, held, given.steps)[1]
    told(tables, what, given)
    cures = {"bilinear, not trained": rows["bilinear, not trained"]}
    cures["plain ConvTranspose2d, k=5 s=2"] = rows["plain ConvTranspose2d, k=5 s=2"]
    tables["Fixes for the plain network, and for one that halves its maps, x4"] = cures
    for name, make in {**CURES, **POOLS}.items():
        cures[name] = learned(name, make, seen, held, given.steps)[1]
    tables["The plain network stopped early, repaired by smoothing, x4"] = {
        "bilinear, not trained": rows["bilinear, not trained"],
        **repairs(WAYS["plain ConvTranspose2d, k=5 s=2"], seen, held, given.steps // 4, (0.0, 0.03, 0.3, 3.0)),
    }
    told(tables, what, given)


def told(tables: dict[str, dict[str, Any]], what: str, given: argparse.Namespace) -> None:
    """Print the tables so far, and write them to the requested files."""
    parts = [f"{what}, {given.steps} steps, {given.maps} maps held out."]
    for title, rows in tables.items():
        parts += [f"**{title}**", table(rows, rows["bilinear, not trained"]["rmse"])]
    text = "\n\n".join(parts)
    print(text, flush=True)
    if given.json:
        given.json.write_text(json.dumps(tables, indent=1))
    if given.write:
        page = given.write.read_text()
        begin, end = page.index(START) + len(START), page.index(END)
        given.write.write_text(f"{page[:begin]}\n{text}\n{page[end:]}")


if __name__ == "__main__":
    main()
