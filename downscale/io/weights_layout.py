"""How files of weights name things: the links and the two grids of the ESMF and the SCRIP layout (knows words only)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["esmf", "scrip"]
Side = Literal["a", "b"]

# Target cell, source cell and weight of a link.
LINKS: dict[Layout, tuple[str, str, str]] = {
    "esmf": ("row", "col", "S"),
    "scrip": ("dst_address", "src_address", "remap_matrix"),
}
# Of what angles are where a file does not say.
ANGLES = {"esmf": "degrees", "scrip": "radians"}


@dataclass(frozen=True)
class GridNames:
    """What a layout calls the cells of one grid.

    Attributes
    ----------
    size, corners, rank : str
        Dimensions: of all cells, of the corners of a cell, of the shape.
    shape, y, x, y_corners, x_corners, mask, area, share : str
        Variables: the shape with the fastest dimension first, centres, corners, 1 for each cell, areas, covered shares.
    """

    size: str
    corners: str
    rank: str
    shape: str
    y: str
    x: str
    y_corners: str
    x_corners: str
    mask: str
    area: str
    share: str


def grid_names(layout: Layout, side: Side) -> GridNames:
    """Return the names of the source ("a") or the target ("b").

    Examples
    --------
    >>> grid_names("esmf", "a").y, grid_names("scrip", "b").y
    ('yc_a', 'dst_grid_center_lat')
    """
    grid = "src_grid" if side == "a" else "dst_grid"
    if layout == "esmf":
        own = (f"{stem}_{side}" for stem in ("yc", "xc", "yv", "xv", "mask", "area", "frac"))
        return GridNames(f"n_{side}", f"nv_{side}", f"{grid}_rank", f"{grid}_dims", *own)
    own = (f"{grid}_{end}" for end in ("center_lat", "center_lon", "corner_lat", "corner_lon", "imask", "area", "frac"))
    return GridNames(f"{grid}_size", f"{grid}_corners", f"{grid}_rank", f"{grid}_dims", *own)
