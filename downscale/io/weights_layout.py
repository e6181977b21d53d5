"""Names of variables and dimensions in the ESMF and the SCRIP layout of weights."""

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
# Angular unit if a file does not state it.
ANGLES = {"esmf": "degrees", "scrip": "radians"}


@dataclass(frozen=True)
class GridNames:
    """Names of the cells of one grid in a layout.

    Attributes
    ----------
    size, corners, rank : str
        Dimensions: all cells, corners of a cell, rank of the shape.
    shape, y, x, y_corners, x_corners, mask, area, share : str
        Variables: the shape with the fastest dimension first, centres, corners, mask (1 for each cell), areas, covered
        fractions.
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
