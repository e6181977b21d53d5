"""Time the arithmetic in memory: operator, constraint, check and bounds, a copy, and upsampling in torch.

A part of speed.py, run as a separate process: python kernels.py MAPS ROUNDS prints the seconds as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr
from measure import CORES, in_turn
from numpy.typing import NDArray
from series import COLUMNS, ROWS, dataset, real_maps
from torch.nn import functional

import downscale  # noqa: F401
from downscale.engine.cut import Cut, Span
from downscale.engine.fused import apply_bare, refine_maps
from downscale.request import Request
from downscale.steps.prepare import MapPlan, plan_maps

FACTOR, TAPS = 4, 7
Contenders = dict[str, Callable[[], object]]
Floats = NDArray[np.float32]


class Nowhere:
    """A target for ``dask.array.store`` that discards its data."""

    def __setitem__(self, place: Any, values: Any) -> None:
        pass


def main() -> None:
    maps, rounds = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(CORES)
    tas, pr = dataset("tas", maps), dataset("pr", maps)
    out = np.zeros((maps, ROWS * FACTOR, COLUMNS * FACTOR), np.float32)
    groups = {
        "operator": in_turn(operator(tas, out), rounds),
        "engine": in_turn(engine(tas, pr, out), rounds),
        "accessor": in_turn(accessor(tas, out), rounds),
    }
    times = {group: {name: taken.seconds for name, taken in each.items()} for group, each in groups.items()}
    print(json.dumps({"bytes": out.nbytes, "source": real_maps("tas")[1], "times": times}))


def operator(tas: xr.Dataset, out: Floats) -> Contenders:
    """Return the contenders that write fine maps into reused memory, and copies of the maps."""
    up: Any = plan_maps(tas, Request(factor=FACTOR, taps=TAPS)).jobs["tas"].upscaler
    coarse = tas.tas.values
    target = torch.from_numpy(out)
    given, wide = torch.from_numpy(coarse)[:, None], target[:, None]
    source, copied = out.copy(), torch.from_numpy(np.zeros_like(out))
    kernel = convolution_kernel(up)
    _require_same(coarse, up, kernel)
    size = [ROWS * FACTOR, COLUMNS * FACTOR]
    aten = torch.ops.aten
    return {
        "copy of the output, torch": lambda: copied.copy_(target),
        "copy of the output, numpy": lambda: np.copyto(source, out),
        "operator": lambda: apply_bare(coarse, up, out, CORES),
        "F.interpolate bilinear": lambda: aten.upsample_bilinear2d.out(given, size, False, out=wide),
        "F.interpolate bicubic": lambda: aten.upsample_bicubic2d.out(given, size, False, out=wide),
        "F.conv_transpose2d": lambda: convolved(given, kernel),
    }


def convolution_kernel(up: Any) -> torch.Tensor:
    """Return the kernel of a row in mid-domain as a transposed convolution kernel, shape (1, 1, 28, 28)."""
    lines = []
    for axis, size in zip(up.axes, up.grid.shape, strict=True):
        phases = axis.weights[size // 2 * FACTOR : (size // 2 + 1) * FACTOR]
        # The last weight of a cell applies to the fine cells of the coarse cell farthest before it.
        lines.append(phases[:, ::-1].T.ravel())
    return torch.from_numpy(np.multiply.outer(*lines).astype(np.float32))[None, None]


def convolved(given: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    reach = TAPS // 2 * FACTOR
    with torch.no_grad():
        return functional.conv_transpose2d(given, kernel, stride=FACTOR, padding=reach)


def _require_same(coarse: Floats, up: Any, kernel: torch.Tensor) -> None:
    """Check that both do the same work: equal values for the row of the kernel."""
    one = np.empty((1, ROWS * FACTOR, COLUMNS * FACTOR), np.float32)
    apply_bare(coarse[:1], up, one)
    other = convolved(torch.from_numpy(coarse[:1])[:, None], kernel)[0, 0].numpy()
    row, inside = slice(ROWS // 2 * FACTOR, (ROWS // 2 + 1) * FACTOR), slice(TAPS * FACTOR, -TAPS * FACTOR)
    np.testing.assert_allclose(other[row, inside], one[0, row, inside], rtol=3e-6)


def engine(tas: xr.Dataset, pr: xr.Dataset, out: Floats) -> Contenders:
    """Return the operator with constraint and check, with and without bounds, in memory and with Dask."""
    coarse, rain = tas.tas.values, pr.pr.values
    warm: Any = plan_maps(tas, Request(factor=FACTOR, taps=TAPS))
    free: Any = plan_maps(pr, Request(factor=FACTOR, taps=TAPS, bounds=None))
    bounded: Any = plan_maps(pr, Request(factor=FACTOR, taps=TAPS, bounds=(0, None)))
    return {
        "operator": lambda: apply_bare(coarse, warm.jobs["tas"].upscaler, out, CORES),
        "law and check": lambda: refined(coarse, warm, out),
        "rain, operator": lambda: apply_bare(rain, free.jobs["pr"].upscaler, out, CORES),
        "rain, law and check": lambda: refined(rain, free, out),
        "rain, law, check and bounds": lambda: refined(rain, bounded, out),
        "lazy, law and check": lambda: streamed(tas),
        "rain, lazy, law, check and bounds": lambda: streamed(pr),
    }


def refined(values: Floats, prepared: MapPlan, out: Floats) -> None:
    """Run the work of a block with all threads, into reused memory."""
    rows, columns = (Cut(*[Span(0, size, size)] * 3) for size in (ROWS, COLUMNS))
    refine_maps(values, out, next(iter(prepared.jobs.values())), rows, columns, {}, CORES)


def streamed(ds: xr.Dataset) -> None:
    """Downscale block by block with Dask threads, and discard the results."""
    name, piece = next(iter(ds.data_vars)), max(ds.sizes["time"] // (4 * CORES), 1)
    fine: Any = ds.chunk(time=piece).downscale(FACTOR, taps=TAPS)[name].data
    with dask.config.set(scheduler="threads", num_workers=CORES):
        fine.store(Nowhere(), lock=False)


def accessor(tas: xr.Dataset, out: Floats) -> Contenders:
    """Return the user's call in a loop, and copies; each replaces its previous result, as ``fine = ...`` does."""
    fine = torch.from_numpy(out)
    latest: dict[str, Any] = {}
    return {
        "ds.downscale(4)": lambda: latest.update(downscaled=tas.downscale(FACTOR, taps=TAPS)),
        "torch.clone of the result": lambda: latest.update(clone=fine.clone()),
        "numpy copy of the result": lambda: latest.update(copy=out.copy()),
        "the call on one map": lambda: tas.isel(time=[0]).downscale(FACTOR, taps=TAPS),
    }


if __name__ == "__main__":
    main()
