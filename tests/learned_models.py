"""Small learned models with weights of any kind, and fields for them, for the tests of learned downscaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.nn.learned import Learned, cells_of
from downscale.nn.separable import parts_of, sobolev_operator
from downscale.nn.spec import ModelSpec, Variable
from downscale.typing import Place

SMALL: dict[str, dict[str, Any]] = {
    "residual": {"width": 6, "depth": 1, "fine_width": 4},
    "unet": {"width": 4, "levels": 1, "depth": 1, "fine_width": 4},
    "autoencoder": {"width": 4, "levels": 1, "latent": 3, "depth": 1, "fine_width": 4},
    "sr_cnn": {"width": 4, "depth": 1, "fine_width": 4, "activation": "silu"},
}
OTHERS: dict[str, Any] = {"width": 4, "depth": 1, "fine_width": 3}


def lat_lon(rows: int, columns: int, closed: bool = False) -> RectilinearGrid:
    """Rows of unequal widths from 20 to 80 degrees north."""
    steps = np.linspace(1.0, 2.0, rows)
    edges = 20 + 60 * np.concatenate([[0], np.cumsum(steps)]) / steps.sum()
    span = 360.0 if closed else min(5.0 * columns, 300.0)
    return RectilinearGrid(
        CellAxis(edges, "latitude"), CellAxis(np.linspace(0, span, columns + 1), "longitude")
    )


def rain(transform: str) -> Variable:
    return Variable("pr", "mm h-1", transform=transform, bounds=(0, None))


def spec_of(
    network: str, factor: tuple[int, int], constraint: str = "bounded", transform: str = "local", **options: Any
) -> ModelSpec:
    """A small model of rain that sees the orography."""
    return ModelSpec(
        network, factor, (rain(transform),), statics=("orog",), options={**SMALL.get(network, OTHERS), **options},
        constraint=constraint,
    )  # fmt: skip


def awake(spec: ModelSpec, seed: int = 0, spread: float = 0.15) -> Learned:
    """A model none of whose weights is zero."""
    torch.manual_seed(seed)
    model = Learned(spec)
    for weight in model.parameters():
        nn.init.normal_(weight, std=spread)
    return model


def place_of(grid: RectilinearGrid, factor: tuple[int, int], seed: int = 0) -> Place:
    """The whole world, with an orography."""
    fine = grid.refine(*factor)
    orog = np.random.default_rng(seed).uniform(0, 3000, fine.shape)
    return Place(grid, fine, statics={"orog": torch.from_numpy(orog)})


def upscaled(grid: RectilinearGrid, factor: tuple[int, int], x: Tensor, place: Place) -> Tensor:
    return sobolev_operator(grid, parts_of(grid, factor))(x, place)


def some_fields(
    grid: RectilinearGrid,
    factor: tuple[int, int],
    variables: int = 1,
    dtype: torch.dtype = torch.float32,
    missing: float = 0.0,
    masked: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Aggregation, Tensor]:
    """Two maps of skewed values above zero, their proposals, the cells, and an orography."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.7, 2.0, (2, variables, *grid.shape))
    values[rng.uniform(size=values.shape) < missing] = np.nan
    x = torch.from_numpy(values).to(dtype)
    place = place_of(grid, factor)
    proposal = upscaled(grid, factor, x, place)
    proposal[..., torch.from_numpy(rng.uniform(size=place.fine.shape) < masked)] = torch.nan
    return x, proposal, cells_of(grid, parts_of(grid, factor)), place.statics["orog"].to(dtype)[None]
