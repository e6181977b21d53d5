"""The main job on the embedded real sample, as a recipe (knows names only)."""

from __future__ import annotations

from pathlib import Path

from downscale.errors import OutputError
from downscale.runs.recipe import Recipe, parse_recipe

DESCRIPTION = (
    "Annual means of a climate model over North America, downscaled from 1.25 x 1.875 degrees with the Sobolev kernel; "
    "unresolved relief by the lapse rate that self-validation favours; every coarse cell keeps its mean."
)
# What the network has seen is no test of it.
LEARNED_NOTE = (
    "The network has learned from coarsened maps of this very climate model run, among other data: its number there is "
    "no proof of skill; docs/learned.md has its errors on data that it never saw."
)
TITLE = "Near-surface air temperature, HadCM3 A1B, x4"


def demo_recipe(folder: str | Path) -> Recipe:
    """Return the recipe of ``downscale demo``: x4 with relief, terrain-gradient penalty, map and report."""
    out = Path(folder)
    return parse_recipe(
        {
            "title": TITLE,
            "description": DESCRIPTION,
            "input": {"path": "sample:north_america", "variables": ["tas"], "chunks": {"time": 12}},
            "statics": {"orog": "sample:north_america_relief", "variable": "orog"},
            "downscale": {"factor": 4, "method": "sobolev"},
            "terrain": {"lapse_rate": -3.0e-3, "penalty": {"base_gradient": 1.0e-5, "ratio": 3.0e-3}},
            "validate": {"law": "cell", "tolerance": 1.0e-6},
            "output": {
                "path": str(out / "tas_north_america_x4.nc"),
                "map": str(out / "tas_north_america_x4.png"),
                "report": str(out / "report.html"),
                "overwrite": True,
            },
        }
    )


def learned_recipe(folder: str | Path) -> Recipe:
    """Return the same job by the network for temperature that comes with the package: a second file and map."""
    content = demo_recipe(folder).model_dump(by_alias=True, exclude_unset=True)
    content["description"] = "The same by the network that comes with the package, which looks at the relief itself."
    content["title"] += ", learned"
    content["downscale"] = {"factor": 4, "method": "temperature"}
    del content["terrain"]
    out = Path(folder)
    content["output"] = {
        "path": str(out / "tas_north_america_x4_learned.nc"),
        "map": str(out / "tas_north_america_x4_learned.png"),
        "overwrite": True,
    }
    return parse_recipe(content)


def prepare_folder(folder: Path) -> None:
    """Make the folder of the outputs.

    Raises
    ------
    OutputError
        If its parent is missing, or a file is in the way.
    """
    if not folder.resolve().parent.is_dir():
        raise OutputError(f"expected an existing parent folder, received {folder.resolve().parent}; create it first")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder, received the file {folder}; choose another name")
    folder.mkdir(exist_ok=True)
