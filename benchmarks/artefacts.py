"""Artefacts of ways to make a field finer, each trained alike on one real field, and what each cure changes.

    python benchmarks/artefacts.py                                       # the embedded relief
    python benchmarks/artefacts.py FILE.nc --var tas --write docs/artefacts.md --plot docs/images/artefacts.png

One small network (two convolutions, two steps up by 2, no convolution after them) is trained for each way up with the same
data, seed, steps and loss. Held-out maps are judged by their errors and checkerboards, the network by plane waves and shifts.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import downscale
from downscale.diagnostics.checkerboard import checkerboard
from downscale.diagnostics.equivariance import equivariance
from downscale.diagnostics.probe import plane, probe
from downscale.diagnostics.response import measure_response
from downscale.io.cf import horizontal
from downscale.losses.smoothness import kernel_smoothness
from downscale.nn.attention import GlobalAttention, WindowedAttention
from downscale.nn.blurpool import HALVINGS
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.dilated import DilatedConv2d
from downscale.nn.layers import Shuffle, convolution
from downscale.nn.repair import smooth_layers, upsamplers
from downscale.nn.separable import operator
from downscale.nn.stages import resize, shuffle
from downscale.nn.subpixel import ConsistentShuffle

FACTOR, WIDTH, PATCH, BATCH, EDGE, HALO = 4, 16, 20, 16, 3, 16
START, END = "<!-- artefacts -->", "<!-- end of artefacts -->"


def plain(kernel: int) -> Callable[[int, int], nn.Module]:
    """A transposed convolution bound by no law."""

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


class Small(nn.Module):
    """Two convolutions, whatever stands between, two steps up by 2, whatever comes after each."""

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
            self.kernels[shape] = operator(self.base, plane(*shape), FACTOR)
        with torch.no_grad():
            under = self.kernels[shape](coarse)
        mean = nn.functional.avg_pool2d(fine, FACTOR)
        return under + fine - mean.repeat_interleave(FACTOR, -1).repeat_interleave(FACTOR, -2)


def halved(name: str) -> Callable[[int], nn.Module]:
    """Half as many cells and back: what an encoder does, and why it minds where the field lies."""
    return lambda width: nn.Sequential(HALVINGS[name](width, width), nn.SiLU(), resize(width, width, (2, 2)))


def dilated(distance: int) -> Callable[[int], nn.Module]:
    def make(channels: int) -> nn.Module:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return DilatedConv2d(channels, channels, (2, 2), dilation=(distance, distance))

    return make


WAYS: dict[str, Callable[[], nn.Module]] = {
    "plain ConvTranspose2d, k=5 s=2": lambda: Small(plain(5)),
    "divisible kernel, k=4 s=2": lambda: Small(plain(4)),
    "resize, then convolution": lambda: Small(lambda c, o: resize(c, o, (2, 2))),
    "pixel shuffle": lambda: Small(raw_shuffle),
    "pixel shuffle, ICNR": lambda: Small(lambda c, o: shuffle(c, o, (2, 2))),
    "pixel shuffle under the phase law": lambda: Small(lambda c, o: ConsistentShuffle(c, o, (2, 2))),
    "ours: phase law": lambda: Small(bound("random")),
    "ours: phase law, Sobolev": lambda: Small(bound("sobolev"), base="sobolev"),
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
    """A network as an up-scaler."""

    factor, multiple_of, laws = (FACTOR, FACTOR), 2, frozenset()

    def __init__(self, network: nn.Module, halo: tuple[int, int] | None = (HALO, HALO)) -> None:
        self.network, self.halo = network, halo

    def __call__(self, coarse: Tensor, place: object = None) -> Tensor:
        with torch.no_grad():
            return self.network(coarse.float().unsqueeze(1))[:, 0].double()


def read(path: str | None, name: str | None, maps: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Fine maps to learn from and to judge by, normalised, (N, ny, nx) each."""
    ds = downscale.sample.open("north_america_relief") if path is None else downscale.open_dataset(path)
    variable = ds[name or ("orog" if path is None else str(next(iter(ds.data_vars))))]
    values = np.asarray(variable.transpose(..., *horizontal(ds).dims), dtype=np.float64)
    values = values.reshape(-1, *values.shape[-2:])
    if len(values) == 1:
        half = values.shape[-1] // (2 * FACTOR) * FACTOR
        seen, held = values[..., :half], values[..., half : 2 * half]
    else:
        # The last half of the maps is never seen.
        seen, held = np.split(values, [len(values) // 2])[:2]
        held = held[:: max(len(held) // maps, 1)][:maps]
    rows, columns = (n // FACTOR * FACTOR for n in seen.shape[-2:])
    mean, std = seen.mean(), seen.std()
    both = [((part - mean) / std)[:, :rows, :columns].astype(np.float32) for part in (seen, held)]
    return both[0], both[1], f"{variable.name} of {Path(path).name if path else 'the embedded relief'}"


def pooled(fine: np.ndarray) -> np.ndarray:
    n, rows, columns = fine.shape
    return fine.reshape(n, rows // FACTOR, FACTOR, columns // FACTOR, FACTOR).mean((2, 4))


def train(network: nn.Module, fine: np.ndarray, steps: int, roughness: float, seed: int = 0) -> None:
    """Adam on squared errors, the same patches for every network."""
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    size = min(PATCH, fine.shape[1] // FACTOR, fine.shape[2] // FACTOR) * FACTOR
    for _ in range(steps):
        place = [
            (rng.integers(len(fine)), *(FACTOR * rng.integers((n - size) // FACTOR + 1) for n in fine.shape[1:]))
            for _ in range(BATCH)
        ]
        truth = np.stack([fine[i, y : y + size, x : x + size] for i, y, x in place])
        coarse = torch.from_numpy(pooled(truth))[:, None]
        error = network(coarse)[:, 0] - torch.from_numpy(truth)
        loss = (error[:, 8:-8, 8:-8] ** 2).mean()
        if roughness:
            loss = loss + roughness * kernel_smoothness([each.layer.weight for each in upsamplers(network)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def judge(make: Callable[[Any], Any], held: np.ndarray) -> dict[str, float]:
    """All figures of one up-scaler, made for a grid by ``make``."""
    coarse = torch.from_numpy(pooled(held)).double()
    fine = np.asarray(make(plane(*coarse.shape[-2:]))(coarse, None))
    inside = (slice(None), *(slice(EDGE * FACTOR, -EDGE * FACTOR),) * 2)
    board = checkerboard(fine[inside], FACTOR)
    subject = probe(make, 24)
    # Waves as steep as those that a map of temperature is made of.
    response = measure_response(subject, amplitude=0.5)
    shifted = equivariance(subject)
    return {
        "rmse": float(((fine - held)[inside] ** 2).mean() ** 0.5),
        "index": board.index,
        "energy": board.energy,
        "p": board.p_value,
        "constants": response.checkerboard_of_constants,
        "rejection": response.rejection,
        "equivariance": shifted.mean,
        "displacement": shifted.mean_displacement,
    }


def learned(name: str, make: Callable[[], nn.Module], seen: np.ndarray, held: np.ndarray, steps: int) -> Any:
    torch.manual_seed(0)
    network, begin = make(), time.perf_counter()
    train(network, seen, steps, 0.03 if "roughness" in name else 0.0)
    halo = None if "global" in name else (HALO, HALO)
    row = judge(lambda grid: Trained(network.eval(), halo), held)
    print(f"{name}: {time.perf_counter() - begin:.0f} s, {row}", flush=True)
    return network, row


def repaired(network: nn.Module, strength: float, held: np.ndarray) -> dict[str, float]:
    smooth_layers(network, strength)
    return judge(lambda grid: Trained(network), held)


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown; errors beside those of bilinear interpolation."""
    head = (
        "| | RMSE / bilinear | checkerboard index, dB | checkerboard energy, dB | of constants, dB | image rejection, dB "
        "| equivariance error | blob, cells |\n|---|---|---|---|---|---|---|---|"
    )
    unit = rows["bilinear, not trained"]["rmse"]
    lines = [
        f"| {name} | {row['rmse'] / unit:.3f} | {row['index']:.1f} | {row['energy']:.1f} | "
        f"{-min(row['constants'], 300):.0f} | {row['rejection']:.1f} | {row['equivariance']:.4f} | "
        f"{row['displacement']:.4f} |"
        for name, row in rows.items()
    ]
    return "\n".join([head, *lines])


def draw(rows: dict[str, Any], fields: dict[str, np.ndarray], path: Path) -> None:
    """A piece of one held-out map, as each way makes it, less the truth made smooth: what should not be there."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(fields)
    figure = Figure(figsize=(2.5 * ((count + 1) // 2), 5.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, (count + 1) // 2).ravel()
    for panel in panels:
        panel.axis("off")
    values = np.concatenate([piece.ravel() for piece in fields.values()])
    low, high = np.quantile(values, [0.01, 0.99])
    for panel, (name, piece) in zip(panels, fields.items(), strict=False):
        panel.imshow(piece, cmap="RdYlBu_r", vmin=low, vmax=high, interpolation="nearest")
        told = "" if name not in rows else f"\nindex {rows[name]['index']:.0f} dB"
        panel.set_title(name.replace(", ", ",\n", 1) + told, fontsize=8.5)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="NetCDF with fine maps; the embedded relief without it")
    parser.add_argument("--var", help="its variable")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--maps", type=int, default=4, help="held-out maps that are judged")
    parser.add_argument("--only", help="regular expression: names to train")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--write", type=Path, help="replace the tables between the marks in this markdown file")
    parser.add_argument("--plot", type=Path, help="draw a piece of one map here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seen, held, what = read(given.file, given.var, given.maps)
    print(f"{what}: {len(seen)} maps to learn from, {len(held)} held out, x{FACTOR}, {given.steps} steps", flush=True)
    rows, cures, networks = {}, {}, {}
    for method in ("bilinear", "sobolev"):
        rows[f"{method}, not trained"] = judge(lambda grid, m=method: operator(m, grid, FACTOR), held)
    for name, make in {**WAYS, **CURES, **POOLS}.items():
        if given.only and not re.search(given.only, name):
            continue
        networks[name], row = learned(name, make, seen, held, given.steps)
        (rows if name in WAYS else cures)[name] = row
    first = next(iter(WAYS))
    repair = {"bilinear, not trained": rows["bilinear, not trained"]}
    if first in networks:
        repair[first] = rows[first]
        cures = {**repair, **cures}
        pieces = pictures(networks, held)
        short, _ = learned(f"{first}, stopped early", WAYS[first], seen, held, given.steps // 8)
        repair["stopped early"] = judge(lambda grid: Trained(short), held)
        state = {key: value.clone() for key, value in short.state_dict().items()}
        for strength in (0.0, 0.03, 0.1, 0.3):
            short.load_state_dict(state)
            repair[f"stopped early, smoothed by {strength:g}"] = repaired(short, strength, held)
        repair["trained to the end, smoothed by 0.03"] = repaired(networks[first], 0.03, held)
    text = "\n\n".join(
        [f"{what}, x{FACTOR}, {given.steps} steps; {len(held)} maps held out.", table(rows)]
        + (["Cures of the plain one, and of pooling:", table(cures)] if cures else [])
        + (["Repairs after training:", table(repair)] if len(repair) > 1 else [])
    )
    print(text)
    if given.json:
        given.json.write_text(json.dumps({"ways": rows, "cures": cures, "repairs": repair}, indent=1))
    if given.write:
        page = given.write.read_text()
        begin, end = page.index(START) + len(START), page.index(END)
        given.write.write_text(f"{page[:begin]}\n{text}\n{page[end:]}")
    if given.plot and first in networks:
        draw(rows, pieces, given.plot)


def pictures(networks: dict[str, nn.Module], held: np.ndarray) -> dict[str, np.ndarray]:
    """A piece of the first held-out map by each way, less the coarse cell's mean round about: ripples stand out."""
    middle = [n // (2 * FACTOR) * FACTOR for n in held.shape[1:]]
    piece = tuple(slice(m - 20, m + 28) for m in middle)
    coarse = torch.from_numpy(pooled(held[:1])).double()
    smooth = np.asarray(operator("sobolev", plane(*coarse.shape[-2:]), FACTOR)(coarse))[0]
    made = {name: np.asarray(Trained(networks[name])(coarse))[0] for name in WAYS if name in networks}
    return {name: (field - smooth)[piece] for name, field in {"truth": held[0], **made}.items()}


if __name__ == "__main__":
    main()
