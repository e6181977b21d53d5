"""Error of deconvolution: radar rain blurred by a 25 km footprint, footprint-aware downscaling, and scikit-image.

``python benchmarks/restoration.py --folder FOLDER --write docs/restoration.md --plot docs/images/restoration.png``
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from measure import command_of, table, write_section

from downscale.deconvolution.blur import Blur
from downscale.deconvolution.footprint import FootprintOperator, footprint_error
from downscale.deconvolution.psf import Psf
from downscale.deconvolution.richardson_lucy import richardson_lucy
from downscale.deconvolution.tikhonov import tikhonov, wiener
from downscale.deconvolution.weights import Instrument, cell_kernel
from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import bounded
from downscale.fields.spectrum import radial_power, rings, taper
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.nn.separable import parts_of, sobolev_operator

RADAR, TEMPERATURE = "precipitation_opera_20180824_2km_15min.nc", "temperature_mogrepsuk_2km_20170602-03.nc"
ALPS = "precipitation_mch_20160711_1km_5min.nc"
NOISE, FOOTPRINT, MOST = 0.02, 25_000.0, 150
Tensor = torch.Tensor


def plane(shape: tuple[int, int], step: float) -> RectilinearGrid:
    """Return a grid of square cells."""
    y, x = (CellAxis(np.arange(n + 1) * step, "projected") for n in shape)
    return RectilinearGrid(y, x)


def rmse(field: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Return the root mean square over valid cells."""
    return float(torch.sqrt((((field - truth) * mask) ** 2).sum() / mask.sum()))


def sharpness(field: Tensor, mask: Tensor) -> float:
    """Return the mean absolute difference between valid neighbours."""
    both = mask[:, 1:] * mask[:, :-1]
    return float((torch.diff(field, dim=1).abs() * both).sum() / both.sum())


def small_scales(field: Tensor, truth: Tensor, mask: Tensor, step: float) -> float:
    """Return the power at wavelengths of 8 to 40 km relative to the reference."""
    shape = (field.shape[0], field.shape[1])
    modes, window = rings(shape, (step, step)), torch.as_tensor(taper(shape))
    wanted = (modes.wavenumber > 1 / 40_000) & (modes.wavenumber < 1 / 8_000)
    power = [radial_power(one, mask > 0, window, modes).numpy()[wanted].sum() for one in (field, truth)]
    return float(power[0] / power[1])


def radar_window(folder: Path) -> tuple[Tensor, np.ndarray]:
    """Return rain over a part of Europe with some cells outside radar coverage."""
    with xr.open_dataset(folder / RADAR) as ds:
        rain = ds["precip"][12].values[960:1160, 760:960].astype(np.float64)
    return torch.as_tensor(np.nan_to_num(rain)), np.isfinite(rain)


def restored(folder: Path) -> tuple[list[list[Any]], dict[str, Tensor], list[float]]:
    """Blur, add noise and deconvolve; return table rows, the fields, and the error after each iteration."""
    truth, valid = radar_window(folder)
    grid = plane(truth.shape, 2000.0)
    blur = Blur(Instrument(Psf("gaussian", FOOTPRINT), grid), truth, valid)
    noise = NOISE * torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    data = ((blur.forward(truth) + noise).clamp(min=0)) * blur.mask
    errors: list[float] = []
    richardson_lucy(data, blur, noise=0, iterations=MOST,
                    watch=lambda step, field: errors.append(rmse(field, truth, blur.mask)))  # fmt: skip
    found = {
        "Richardson-Lucy, noise known": richardson_lucy(data, blur, noise=NOISE, iterations=MOST),
        "Richardson-Lucy, noise estimated": richardson_lucy(data, blur, iterations=MOST),
        "Wiener, GCV": wiener(data, blur),
        "Tikhonov order 1, GCV": tikhonov(data, blur),
    }
    rows = [_row("blurred + noise", data, truth, data, blur, "")]
    for name, one in found.items():
        chosen = f"{one.iterations} iterations" if np.isnan(one.parameter) else f"parameter {one.parameter:.1e}"
        rows.append(_row(name, one.field, truth, data, blur, chosen))
    best = int(np.argmin(errors))
    fields = {"truth": truth, "data": data, "restored": found["Richardson-Lucy, noise known"].field, "mask": blur.mask}
    rows.append(["best possible of Richardson-Lucy", f"{errors[best]:.4f}", "", "", "", f"{best + 1} iterations"])
    return rows, fields, errors


def _row(name: str, field: Tensor, truth: Tensor, data: Tensor, blur: Blur, chosen: str) -> list[Any]:
    ratio = sharpness(field, blur.mask) / sharpness(truth, blur.mask)
    change = abs(float(blur.flux(field) / blur.flux(data)) - 1)
    return [name, f"{rmse(field, truth, blur.mask):.4f}", f"{ratio:.3f}",
            f"{small_scales(field, truth, blur.mask, 2000.0):.3f}", f"{change:.1e}", chosen]  # fmt: skip


def aware(folder: Path) -> list[list[Any]]:
    """Downscale footprint averages x4: ignoring the footprint, in two steps, and in one solve."""
    with xr.open_dataset(folder / TEMPERATURE) as ds:
        warm = torch.as_tensor(ds["tas"][0, 0].values.astype(np.float64))
    with xr.open_dataset(folder / ALPS) as ds:
        rain = torch.as_tensor(np.nan_to_num(ds["precip"][10].values[200:328, 200:328]).astype(np.float64))
    rows = []
    for name, truth, step, cells in (("temperature 2 km", warm, 2000.0, 1.0), ("temperature 2 km", warm, 2000.0, 2.0),
                                     ("rain 1 km", rain, 1000.0, 1.0), ("rain 1 km", rain, 1000.0, 2.0)):  # fmt: skip
        width = cells * 4 * step
        rows.append([name, f"{width / 1000:g} km", *_three_ways(truth, step, width, name.startswith("rain"))])
    return rows


def _three_ways(truth: Tensor, step: float, width: float, positive: bool) -> list[str]:
    fine = plane(truth.shape, step)
    coarse = fine.coarsen(4, 4)
    cells, psf = Aggregation.between(coarse, fine), Psf("gaussian", width)
    seen = FootprintOperator(Blur(Instrument(psf, fine), truth), cells)
    x = seen.forward(truth).float().double()
    x = x.clamp(min=0) if positive else x
    up, every = sobolev_operator(coarse, parts_of(coarse, 4)), torch.ones_like(truth)
    on_coarse = Blur(Instrument(psf, coarse), truth)
    first = richardson_lucy(x, on_coarse, noise=0).field if positive else tikhonov(x, on_coarse).field
    ignoring, two = up(x), up(first)
    one = seen.solve(x)
    if positive:
        ignoring, two = (bounded(z, c, cells, (0.0, None)) for z, c in ((ignoring, x), (two, first)))
        one = seen.solve_within(one, x, (0.0, None))
    law = float(footprint_error(seen, one.float().double(), x).max())
    return [*(f"{rmse(field, truth, every):.4f}" for field in (ignoring, two, one)), f"{law:.1e}",
            f"{float(one.min()):.2g}" if positive else ""]  # fmt: skip


def against_scikit_image() -> list[list[Any]]:
    """Return the agreement inside, and the flux lost at edges and gaps by scikit-image and downscale."""
    from skimage import restoration

    truth = torch.zeros(64, 64, dtype=torch.float64)
    truth[20:40, 24:44] = torch.as_tensor(np.random.default_rng(0).random((20, 20))) + 0.2
    psf = Psf("gaussian", 3.0, unit="cells")
    weights = cell_kernel(psf, (64, 64)).values
    blur = Blur(Instrument(psf, shape=truth.shape), truth)
    data = blur.forward(truth).clamp(min=0)
    theirs = restoration.richardson_lucy(data.numpy(), weights, num_iter=20, clip=False)
    ours = richardson_lucy(data, blur, noise=0, iterations=20).field.numpy()
    rows = [["richardson_lucy, padded", f"{np.abs(theirs - ours).max():.1e}", *_lost(theirs, ours, data.numpy())]]
    closed = Blur(Instrument(psf, shape=truth.shape, periodic=(True, True)), truth)
    data = closed.forward(truth)
    theirs = restoration.wiener(data.numpy(), weights, 0.01, clip=False)
    ours = wiener(data, closed, parameter=0.01).field.numpy()
    rows.append(["wiener, closed axes", f"{np.abs(theirs - ours).max():.1e}", *_lost(theirs, ours, data.numpy())])
    cube = torch.zeros(24, 25, 26, dtype=torch.float64)
    cube[10:14, 10:15, 11:15] = torch.as_tensor(np.random.default_rng(1).random((4, 5, 4)))
    box = Psf("box", 3.0, unit="cells")
    data = Blur(Instrument(box, shape=cube.shape), cube).forward(cube).clamp(min=0)
    theirs = restoration.richardson_lucy(data.numpy(), cell_kernel(box, (9, 9, 9)).values, num_iter=4, clip=False)
    ours = richardson_lucy(data, Blur(Instrument(box, shape=cube.shape), cube), noise=0, iterations=4).field.numpy()
    rows.append(["richardson_lucy, three dimensions", f"{np.abs(theirs - ours).max():.1e}",
                 *_lost(theirs, ours, data.numpy())])  # fmt: skip
    rain = torch.as_tensor(np.random.default_rng(2).gamma(0.5, 2.0, (64, 64)))
    for name, share in (("rain up to the edge", 0.0), ("rain with 30 % gaps", 0.3)):
        mask = np.random.default_rng(3).random((64, 64)) >= share
        blur = Blur(Instrument(psf, shape=rain.shape), rain, mask)
        data = blur.forward(rain * blur.mask).clamp(min=0)
        theirs = restoration.richardson_lucy(data.numpy(), weights, num_iter=20, clip=False) * mask
        ours = richardson_lucy(data, blur, noise=0, iterations=20).field.numpy()
        rows.append([name, "", *_lost(theirs, ours, data.numpy())])
    return rows


def at_edges(iterations: int = 20) -> list[list[Any]]:
    """Return errors of Richardson-Lucy near edges and gaps, where the instrument averages over cells without data.

    A window of a larger field, with and without gaps; cells within six (edges) and three (gaps) of missing cells.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter
    from skimage import restoration

    rng = np.random.default_rng(2)
    whole = np.clip(gaussian_filter(rng.gamma(0.3, 2.0, (128, 128)), 1.5, mode="wrap") - 0.3, 0, None)
    psf, field = Psf("gaussian", 6.0, unit="cells"), torch.as_tensor(whole)
    instrument = Instrument(psf, shape=field.shape, periodic=(True, True))
    seen = Blur(instrument, field).forward(field).clamp(min=0)[32:96, 32:96]
    truth, weights = whole[32:96, 32:96], cell_kernel(psf, (64, 64)).values
    edge = np.ones((64, 64), bool)
    edge[6:-6, 6:-6] = False
    clouds = gaussian_filter(np.random.default_rng(3).normal(size=(64, 64)), 4)
    rows = []
    masks = {"a window of a larger field": clouds > -np.inf, "with 30 % gaps": clouds < np.quantile(clouds, 0.7)}
    for name, mask in masks.items():
        data = seen * torch.as_tensor(mask)
        theirs = restoration.richardson_lucy(data.numpy(), weights, num_iter=iterations, clip=False)
        blur = Blur(Instrument(psf, shape=data.shape), data, mask)
        ours = richardson_lucy(data, blur, noise=0, iterations=iterations)
        gaps = binary_dilation(~mask, iterations=3)
        beside = (edge if mask.all() else gaps & ~edge) & mask
        inside = mask & ~edge & ~binary_dilation(~mask, iterations=6)
        rows.append([name, *(
            f"{np.sqrt(((made - truth)[cells] ** 2).mean()):.3f}"
            for cells in (beside, inside) for made in (data.numpy(), theirs, ours.field.numpy())
        )])  # fmt: skip
    return rows


def _lost(theirs: np.ndarray, ours: np.ndarray, data: np.ndarray) -> list[str]:
    return [f"{abs(one.sum() / data.sum() - 1):.1e}" for one in (theirs, ours)]


def draw(fields: dict[str, Tensor], errors: list[float], chosen: int, path: Path) -> None:
    """Plot reference, data, result, and the error after each iteration."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15, 3.9), layout="constrained")
    for axis, (name, title) in zip(axes, (("truth", "truth"), ("data", "25 km footprint and noise"),
                                          ("restored", f"restored, {chosen} iterations")), strict=False):  # fmt: skip
        shown = np.where(fields["mask"].numpy() > 0, fields[name].numpy(), np.nan)[20:180, 20:180]
        image = axis.imshow(np.where(shown < 0.1, 0, shown), norm="asinh", cmap="viridis", vmin=0, vmax=20)
        axis.set(title=title, xticks=[], yticks=[])
    figure.colorbar(image, ax=axes[:3], label="mm h$^{-1}$", shrink=0.8, ticks=[0, 1, 5, 20], format="%g")
    axes[3].plot(np.arange(1, len(errors) + 1), errors, label="Richardson-Lucy")
    axes[3].axvline(chosen, color="0.4", linestyle="--", label=f"stopped by the noise: {chosen}")
    axes[3].axvline(int(np.argmin(errors)) + 1, color="C1", linestyle=":", label=f"best: {int(np.argmin(errors)) + 1}")
    axes[3].set(xlabel="iteration", ylabel="RMSE (mm h$^{-1}$)")
    axes[3].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Print the tables; write tables and figure if requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the real fields")
    parser.add_argument("--write", type=Path, help="page whose marked tables are replaced")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, fields, errors = restored(given.folder)
    tables = {
        "peers": (["case", "largest difference", "flux lost, scikit-image", "flux lost, downscale"],
                  against_scikit_image()),
        "edges": (["case", *("beside: data", "scikit-image", "downscale"), *("far inside: data", "scikit-image",
                   "downscale")], at_edges()),
        "aware": (["field", "footprint", "ignoring it", "deconvolve, then downscale", "one solve", "law in float32",
                   "least value"], aware(given.folder)),
        "restored": (["field", "RMSE (mm/h)", "sharpness / truth", "power at 8-40 km / truth", "flux change",
                      "chosen"], rows),
    }  # fmt: skip
    for name, (head, body) in tables.items():
        text = table(tuple(head), [tuple(map(str, line)) for line in body])
        print(f"\n{name}\n{text}")
        if given.write is not None:
            write_section(given.write, name, command_of(), text)
    if given.plot is not None:
        draw(fields, errors, int(str(rows[1][-1]).split()[0]), given.plot)


if __name__ == "__main__":
    main()
