"""The result of a run, and its report: an HTML page with pictures, and a JSON file with the same numbers."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import yaml

from downscale.cf.bounds import bounds_variables
from downscale.cf.horizontal import horizontal
from downscale.conservation.report import ConservationReport
from downscale.engine.plan import Plan, readable_bytes
from downscale.errors import DownscaleError
from downscale.io.leases import temporary_beside
from downscale.io.paths import sources_of
from downscale.plot.charts import spectrum
from downscale.plot.figures import compare, conservation, zoom
from downscale.plot.style import value_words
from downscale.steps.choice import Choice
from downscale.steps.terrain import TerrainChoice, sample_maps
from downscale.version import library_versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from downscale.runs.recipe import Recipe

# Quantities of each method and their labels; {} is replaced by the units of the field.
SIDES = {
    "cell_error": "largest relative error of a coarse cell",
    "detail": "detail added within coarse cells, {}",
    "per_km": "slope of detail over orography, {} per km",
    "relief_correlation": "correlation of detail with orography",
    "gradient": "root-mean-square gradient, {} per 100 km",
    "coarser_rmse": "self-validation: RMSE, {}",
    "coarser_ratio": "self-validation: RMSE / bilinear",
}
TEMPLATE, STYLE = (Path(__file__).parent / name for name in ("page.html", "page.css"))
DPI = 110
# Maximum fine values for errors and spectra: some maps of a record, one of a large grid.
MOST_VALUES, MOST_MAPS = 20_000_000, 400
# Spectral slope assumed by the default kernel, see the mathematics.
SLOPE = -3.5


@dataclass(frozen=True)
class Picture:
    """One PNG picture with its texts; ``alt`` describes it to readers who cannot see it."""

    title: str
    alt: str
    caption: str
    data: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.data).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, read from the file."""
        return int.from_bytes(self.data[16:20]), int.from_bytes(self.data[20:24])


class Staged:
    """What is measured by stages: ``stages`` has the seconds of each."""

    stages: dict[str, float]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds spent within the block, under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start


@dataclass
class Outcome(Staged):
    """The result of a run.

    Attributes
    ----------
    recipe : Recipe
        The recipe of the run.
    plan : Plan
        The plan of the run.
    conservation : ConservationReport or None
        Report of the check of the written file; None after a dry run.
    self_validation, terrain_penalty : dict
        Errors of predicting the coarse field from its own coarsening; penalty before and after.
    climatology : dict
        Errors of predicting parts of the fine observations that are left out, and weights by label.
    terrain : dict
        Rate and smoothing of the terrain term that self-validation chose, by variable.
    choices : dict
        Settings that ``method="auto"`` chose, by variable.
    files : list of Path
        Files that the run wrote.
    seconds : float
        Wall time.
    blocks, kept : int
        Number of blocks of the run, and how many of an earlier run were kept.
    stages : dict
        Seconds spent in each stage.
    command : str
        Command line that reproduces the run, if it was started by one.
    pictures : list of Picture
        Pictures of the report.
    """

    recipe: Recipe
    plan: Plan
    conservation: ConservationReport | None = None
    self_validation: dict[str, dict[str, float]] = field(default_factory=dict)
    terrain_penalty: dict[str, dict[str, float]] = field(default_factory=dict)
    climatology: dict[str, dict[str, Any]] = field(default_factory=dict)
    terrain: Mapping[str, TerrainChoice] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    blocks: int = 0
    kept: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    command: str = ""
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class SideBySide:
    """A comparison of two methods: label and quantities of each, by the keys of ``SIDES``, and a map of the second."""

    sides: Sequence[Mapping[str, Any]]
    map_path: Path | None = None
    units: str = "1"
    note: str = ""

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table, with the header first."""
        rows = [("", *(str(side["label"]) for side in self.sides))]
        for key, words in SIDES.items():
            values = (side[key] for side in self.sides)
            rows.append((words.format(self.units), *("-" if value is None else f"{value:.3g}" for value in values)))
        return rows

    @property
    def picture(self) -> Picture | None:
        """The map of the second method."""
        if self.map_path is None:
            return None
        alt = "Three maps: the coarse field, the fine field of a trained network, and the added detail"
        caption = "The last step; colours have their own scale."
        return Picture("Downscaled with a network", alt, caption, self.map_path.read_bytes())


def facts_path(path: Path) -> Path:
    """Return the name of the JSON file next to a report."""
    return path.with_suffix(".json")


def write_report(outcome: Outcome, path: Path, coarse: xr.Dataset, comparison: SideBySide | None = None) -> None:
    """Write ``path`` (HTML) and a JSON file with the same content; both appear complete or not at all."""
    facts = report_facts(outcome, coarse)
    if comparison is not None:
        facts["side_by_side"] = list(comparison.sides)
    recipe = outcome.recipe.model_dump(by_alias=True, exclude_defaults=True, mode="json")
    page = render_page(
        TEMPLATE, facts=facts, report=outcome.conservation, plan_lines=outcome.plan.lines(), pictures=outcome.pictures,
        comparison=comparison, recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100),
    )  # fmt: skip
    write_texts({facts_path(path): json.dumps(facts, indent=2, default=str), path: page})


def render_page(template: Path, **values: Any) -> str:
    """Return a page in HTML from a template, with the style of all reports, ``readable_bytes`` and ``written``."""
    from jinja2 import StrictUndefined, Template
    from markupsafe import Markup

    page = Template(
        template.read_text(encoding="utf-8"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return page.render(
        style=Markup(STYLE.read_text(encoding="utf-8")), readable_bytes=readable_bytes,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), **values,
    )  # fmt: skip


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write texts to their paths, each of which appears complete or not at all."""
    for target, text in texts.items():
        with temporary_beside(target) as scratch:
            scratch.write_text(text + "\n", encoding="utf-8")


def report_facts(outcome: Outcome, coarse: xr.Dataset) -> dict[str, Any]:
    """Return all content of a report as plain values; ``coarse`` is the input."""
    return {
        "title": outcome.recipe.title,
        "description": outcome.recipe.description,
        "command": outcome.command,
        "recipe": outcome.recipe.model_dump(by_alias=True),
        "input": _input_facts(coarse),
        "plan": outcome.plan.to_dict(),
        "conservation": None if outcome.conservation is None else outcome.conservation.to_dict(),
        "self_validation": outcome.self_validation,
        "terrain_penalty": outcome.terrain_penalty,
        "climatology": outcome.climatology,
        "choices": {name: asdict(choice)["candidates"] for name, choice in outcome.choices.items()},
        "terrain": {name: {**asdict(choice), "words": str(choice)} for name, choice in outcome.terrain.items()},
        "blocks": {"count": outcome.blocks, "kept": outcome.kept} if outcome.blocks else None,
        "files": [str(path) for path in outcome.files],
        "seconds": round(outcome.seconds, 2),
        "stages": {name: round(seconds, 3) for name, seconds in outcome.stages.items()},
        "versions": library_versions(),
    }


def _input_facts(coarse: xr.Dataset) -> dict[str, Any]:
    """Return the files, fields, domain and times of the input."""
    paths = [path for path in map(Path, sources_of(coarse)) if path.is_file()]
    bounds = bounds_variables(coarse)
    axes = {}
    for dim in horizontal(coarse, guess=True).dims:
        if dim in coarse.coords and coarse[dim].ndim == 1:
            values = np.asarray(coarse[dim].values, dtype=np.float64)
            unit = str(coarse[dim].attrs.get("units", ""))
            axes[dim] = f"{values.size} cells, {values[0]:g} to {values[-1]:g} {unit}".strip()
    if "time" in coarse.coords and coarse["time"].size:
        times = np.atleast_1d(coarse["time"].values)
        first, last = (value_words("time", value) for value in times[[0, -1]])
        axes["time"] = f"{times.size} steps, {first} to {last}" if times.size > 1 else first
    return {
        "files": [{"path": str(path), "bytes": path.stat().st_size} for path in paths],
        "fields": {
            str(name): {
                "long_name": str(field.attrs.get("long_name", "")),
                "units": str(field.attrs.get("units", "")),
                "shape": {str(dim): size for dim, size in field.sizes.items()},
            }
            for name, field in coarse.data_vars.items()
            if field.ndim and name not in bounds
        },
        "axes": axes,
    }


def draw_pictures(
    coarse: xr.Dataset, fine: xr.Dataset, name: str, title: str, map_path: Path | None, sftlf: Any
) -> list[Picture]:
    """Return the pictures of one field; those not possible on its grids are left out."""
    coarse_dims, fine_axes = horizontal(coarse, guess=True).dims, horizontal(fine, guess=True)
    last = {str(dim): -1 for dim in coarse[name].dims if dim not in coarse_dims}
    samples, total = (coarse, fine), math.prod(coarse[name].sizes[dim] for dim in last)
    if all(coarse.sizes.get(dim) == fine.sizes[dim] for dim in fine[name].dims if dim not in fine_axes.dims):
        # The same evenly spaced maps of both in memory, few enough to plot quickly.
        map_count = max(min(MOST_MAPS, MOST_VALUES // math.prod(fine[name].sizes[dim] for dim in fine_axes.dims)), 1)
        samples = (sample_maps(coarse, horizontal(coarse, guess=True), map_count).load(),
                   sample_maps(fine, fine_axes, map_count).load())  # fmt: skip
    shown_count = math.prod(samples[0][name].sizes[dim] for dim in last)
    maps = "all maps" if shown_count == total else f"{shown_count} of {total} maps, evenly spaced"
    drawings = (
        ("Coarse, fine, and added detail",
         f"Three maps of {name}: the coarse field, the fine field on the same colour scale, and the fine field minus "
         "the coarse cell that contains it",
         "The last step. The added detail averages to zero over each coarse cell if cell means are conserved.",
         lambda: compare(coarse, fine, select=last, title=title, sftlf=sftlf)),
        ("Strongest added detail",
         f"A map of the fine field of {name}, and a box within it, coarse and fine",
         "The box is the part, a quarter of each axis, in which the added detail is strongest.",
         lambda: zoom(coarse, fine, select=last, sftlf=sftlf)),
        ("Worst cells",
         f"A map of the largest relative error of each coarse cell of {name} with a ring around the worst one, and a "
         "histogram of the errors of all cells with the tolerance as a line",
         f"Errors of {maps}, from the file as written. Float32 leaves up to 6e-8.",
         lambda: conservation(*samples, variable=name, sftlf=sftlf)),
        ("Power spectra",
         f"Spectral density of the coarse and the fine field of {name} against wavelength, with a reference line",
         "Both agree at wavelengths that the coarse grid resolves; power to the right of the line marked shortest was "
         "added. The dashed line is the spectral slope that the default kernel assumes.",
         lambda: spectrum(dict(zip(("coarse", "fine"), samples, strict=True)), slope=SLOPE)),
    )  # fmt: skip
    pictures = []
    for number, (heading, alt, caption, draw) in enumerate(drawings):
        # Quadrilaterals have no zoom, grids that do not nest no cell errors, narrow maps no spectrum.
        with suppress(DownscaleError):
            is_drawn = number == 0 and map_path is not None and map_path.suffix == ".png"
            data = map_path.read_bytes() if is_drawn and map_path is not None else png(draw())
            pictures.append(Picture(heading, alt, caption, data))
    return pictures


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return stream.getvalue()
