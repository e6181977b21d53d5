"""Schema of evaluation recipes: reference, methods, scores and output.

YAML is loaded safely; an unknown key is an error that names its path and the legal keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from downscale.errors import listing
from downscale.io.config import Block, read_recipe, validate_block
from downscale.metrics.scores import SCORES
from downscale.training.schema import EventRule, Named, Pair, Seconds, TwoSizes, ValidationSplit, among

SUFFIX = ".safetensors"
# Methods that need only a name. Interpolations are the usual ones, without conservation.
BASELINES: dict[str, dict[str, Any]] = {
    "block": {"method": "conservative", "bounded": False},
    "bilinear": {"method": "bilinear", "conserve": None, "bounded": False},
    "bicubic": {"method": "bicubic", "conserve": None, "bounded": False},
    "sobolev": {"method": "sobolev", "bounded": False},
    "sobolev bounded": {"method": "sobolev", "transform": None},
    "sobolev power": {"method": "sobolev"},
}
# Scores beyond those of the fields: conservation, and cost of the work.
LAW = ("cell_error", "total_error", "out_of_bounds")
COST = ("seconds", "memory")
USUAL_SCORES = (
    "rmse", "mae", "bias", "correlation", "crps", "extreme_bias", "wet_frequency", "gradient_rmse", "spectral_distance",
    "cell_error", "out_of_bounds", "seconds", "memory",
)  # fmt: skip


class Source(Pair):
    """One source of reference maps; its coarse maps are averages of the fine ones, or those of ``coarse``.

    ``label`` names it in tables. ``use: split`` selects only the times that a training with the same split would hold
    out; otherwise all times count. ``every`` takes every n-th of these, and ``most`` limits their number.
    """

    label: str = ""
    use: Literal["split", "validation"] = "validation"
    every: PositiveInt = 1
    most: PositiveInt | None = None


class Data(Block):
    """Data of the comparison: sources, variables and model inputs; ``na_thres`` is that of the averaging."""

    factor: TwoSizes
    sources: list[Source] = Field(min_length=1)
    outputs: list[Named] = Field(min_length=1)
    predictors: list[Named] = Field(default_factory=list)
    validation: ValidationSplit = ValidationSplit()
    na_thres: float = Field(default=1.0, ge=0, le=1)

    @field_validator("sources")
    @classmethod
    def _labels(cls, value: list[Source]) -> list[Source]:
        sources = [
            source if source.label else source.model_copy(update={"label": _stem(source.fine)}) for source in value
        ]
        _require_distinct([source.label for source in sources])
        return sources


class Method(Block):
    """One method: its label, and arguments of :func:`downscale.downscale`.

    ``method`` is a name or the path of a checkpoint. Alternatively, ``train`` is the path of a training recipe, which
    runs first, for ``max_time`` if given. ``change`` replaces values of that recipe by the path of their key
    (``network.options.width: 32``; null removes a key). ``members`` is the size of ensembles, for stochastic methods.
    ``bounded`` enforces the bounds of the variable, and needs cell conservation. ``relief_smoothing`` smooths the
    orography of the lapse-rate term, in fine cells; 0 (default) leaves it as it is. ``transform`` is that of rain.
    """

    label: str
    method: str = "sobolev"
    train: str | None = None
    max_time: Seconds | None = None
    change: dict[str, Any] = Field(default_factory=dict)
    bounded: bool = True
    conserve: Literal["cell", "total"] | None = "cell"
    transform: float | Literal["auto", "power", "none"] | None = "auto"
    lapse_rate: float | None = None
    relief_smoothing: float = Field(default=0.0, ge=0)
    taps: int = 7
    order: float | None = None
    device: str | None = None
    members: PositiveInt | None = None
    seed: int = Field(default=0, ge=0)
    smoothing: float | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _require_one(cls, value: Any) -> Any:
        if isinstance(value, dict) and "train" in value and "method" in value:
            raise ValueError("either method or train")
        if isinstance(value, dict) and "change" in value and "train" not in value:
            raise ValueError("change with train only")
        return value


def _complete_method(value: Any) -> Any:
    """Return the keys of a named method, in which single keys can be replaced."""
    if isinstance(value, str):
        value = {"label": value} if value in BASELINES else {"label": _stem(value), "method": value}
    if not isinstance(value, dict):
        return value
    label = value.get("label") or value.get("method") or value.get("train")
    defaults = BASELINES.get(str(label), {}) if "train" not in value else {}
    return {**defaults, **value, "label": _stem(str(label)) if label else label}


class Figures(Block):
    """Figures per source: maps of one time, by number, for the named methods (else the first four)."""

    map: Annotated[int, Field(ge=0)] = 0
    select: dict[str, tuple[Any, Any]] = Field(default_factory=dict)
    methods: list[str] = Field(default_factory=list)
    dpi: PositiveInt = 130


class Output(Block):
    """Output folder, and types of files: the table as markdown, CSV and NetCDF, and figures."""

    folder: str = "evaluation"
    name: str = "scores"
    figures: Figures | None = Figures()
    overwrite: bool = True

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value or "/" in value or value.startswith("."):
            raise ValueError("the beginning of file names, such as scores")
        return value


class EvaluationRecipe(Block):
    """One evaluation: data, methods, scores, output.

    ``reference`` is the label of the method whose errors are the denominator of ratios. ``wet`` is the least value of a
    wet cell. ``event`` is an event of the first output, whose mask is scored, for fields beyond the threshold and for
    segmentation models. ``thresholds`` and ``scales`` (odd widths of windows in cells) define the fractions skill
    score. ``extreme`` and ``quantiles`` are area-weighted levels. ``most_cells`` is the number of fine cells in memory.
    """

    title: str = "evaluation"
    description: str = ""
    data: Data
    methods: list[Annotated[Method, BeforeValidator(_complete_method)]] = Field(min_length=1)
    reference: str | None = None
    scores: Annotated[list[str], among((*SCORES, *LAW, *COST))] = Field(default_factory=lambda: list(USUAL_SCORES))
    wet: float | None = None
    event: EventRule | None = None
    extreme: Annotated[float, Field(gt=0, lt=1)] = 0.999
    quantiles: list[Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=lambda: [0.5, 0.9, 0.99, 0.999])
    thresholds: list[float] = Field(default_factory=list)
    scales: list[PositiveInt] = Field(default_factory=lambda: [1, 5, 17, 65])
    most_cells: PositiveFloat = 4e6
    output: Output = Output()

    @field_validator("scales")
    @classmethod
    def _scales(cls, value: list[int]) -> list[int]:
        if any(side % 2 == 0 for side in value):
            raise ValueError("odd numbers of cells, such as 1, 5, 17")
        return value

    @model_validator(mode="after")
    def _labels(self) -> EvaluationRecipe:
        labels = [method.label for method in self.methods]
        _require_distinct(labels)
        required = [self.reference] if self.reference else []
        required += self.output.figures.methods if self.output.figures else []
        for name in required:
            if name not in labels:
                raise ValueError(f"labels among {listing(labels)}, not {name!r}, for reference and figures.methods")
        return self

    @property
    def reference_label(self) -> str:
        """Label of the reference: the named one, else "sobolev bounded" if present, else the first."""
        labels = [method.label for method in self.methods]
        default = "sobolev bounded"
        return self.reference or (default if default in labels else labels[0])


def _stem(name: str) -> str:
    """Return a short label of a file; names that are not files stay unchanged.

    Examples
    --------
    >>> _stem("models/cnn.safetensors"), _stem("sobolev bounded")
    ('cnn', 'sobolev bounded')
    """
    path = Path(name.removeprefix("sample:"))
    return path.stem if path.suffix in (SUFFIX, ".nc", ".yml", ".yaml") else path.name


def _require_distinct(labels: list[str]) -> None:
    duplicates = [label for label in labels if labels.count(label) > 1]
    if duplicates:
        raise ValueError(f"labels that differ, and {duplicates[0]!r} is there twice; give one a label")


def load_evaluation(path: str | Path) -> EvaluationRecipe:
    """Return the recipe of a YAML file; relative paths refer to the current folder."""
    return read_recipe(EvaluationRecipe, path)


def parse_evaluation(content: dict[str, Any], origin: str = "recipe") -> EvaluationRecipe:
    """Return the evaluation recipe from its parsed content.

    Examples
    --------
    >>> data = {"factor": 4, "outputs": ["pr"], "sources": [{"fine": "radar.nc"}]}
    >>> parse_evaluation({"data": data, "methods": ["bilinear", "sobolev bounded"]}).reference_label
    'sobolev bounded'
    """
    return validate_block(EvaluationRecipe, content, origin)
