"""The recipes of the demo on the embedded sample."""

from __future__ import annotations

from pathlib import Path

from downscale.errors import OutputError
from downscale.runs.recipe import Recipe, parse_recipe

DESCRIPTION = (
    "Annual means of a climate model over North America, downscaled from 1.25 x 1.875 degrees with the Sobolev kernel; "
    "unresolved orography with the lapse rate preferred by self-validation; every coarse-cell mean is conserved."
)
# Training data are no independent test.
LEARNED_NOTE = (
    "The training data of the network include coarsened maps of this climate model run, so its score here is no "
    "proof of skill; docs/learned.md has its errors on held-out data."
)
TITLE = "Near-surface air temperature, HadCM3 A1B, x4"


def demo_recipe(folder: str | Path) -> Recipe:
    """Return the recipe of ``downscale demo``: x4 with orography, terrain-gradient penalty, map and report."""
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
    """Return the same recipe with the bundled network for temperature: a second file and map."""
    content = demo_recipe(folder).model_dump(by_alias=True, exclude_unset=True)
    content["description"] = "The same input with the bundled network, which uses the orography itself."
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
    """Create the folder of the outputs.

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
