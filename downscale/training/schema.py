"""Schema of training recipes: pairs, network, losses, duration and output.

YAML is loaded safely; an unknown key is an error that names its path and the legal keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from downscale.cf.units import same_units
from downscale.errors import OptionError, listing
from downscale.io.config import Block, read_recipe, validate_block
from downscale.nn.spec import CONSTRAINTS, ENCODINGS, STATICS

SECONDS = {"s": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86400.0,
           "day": 86400.0}  # fmt: skip
Fraction = Annotated[float, Field(ge=0, lt=1)]


def seconds_of(value: Any) -> float:
    """Return a duration in seconds, from a number or a text such as "8 minutes" or "01:30:00".

    Examples
    --------
    >>> seconds_of("8 minutes"), seconds_of("01:30:00"), seconds_of(90)
    (480.0, 5400.0, 90.0)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    text = str(value).strip().lower()
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d)", text)
    if clock:
        return float(int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3]))
    words = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+?)(?:s)?", text)
    if words and words[2] in SECONDS:
        return float(words[1]) * SECONDS[words[2]]
    raise ValueError('a time such as "8 minutes", "01:30:00" or a number of seconds')


def _as_pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_block(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def among(table: Any) -> AfterValidator:
    """Return a validator of a name, or of a list of names, in a table."""

    def check(value: Any) -> Any:
        names = value if isinstance(value, list) else [value]
        if any(name not in table for name in names if name is not None):
            raise ValueError(f"names among {listing(table)}")
        return value

    return AfterValidator(check)


Seconds = Annotated[float, BeforeValidator(seconds_of)]
TwoSizes = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_as_pair)]


class Pair(Block):
    """One source of maps: fine fields, and optionally the coarse ones of an independent model.

    ``names`` maps variables of the recipe to those of the files. ``multiply`` converts values to the units of the
    recipe, for files without usable units. ``average`` first averages that many fine cells along each axis. ``smooth``,
    an odd number, takes running means over that many cells before averaging, as for an instrument with a footprint
    wider than its cells. ``select`` restricts coordinate ranges. ``use`` puts all maps on one side of the split.
    ``weight`` is the relative sampling frequency of the source, independent of its size. ``orog``, ``sftlf`` and
    ``climatology`` are files of statics; the climatology is one map of the first output, which must not contain times
    that are held out.
    """

    fine: str
    coarse: str | None = None
    names: dict[str, str] = Field(default_factory=dict)
    multiply: dict[str, float] = Field(default_factory=dict)
    orog: str | None = None
    orog_variable: str | None = None
    sftlf: str | None = None
    climatology: str | None = None
    average: PositiveInt = 1
    smooth: PositiveInt = 1
    select: dict[str, tuple[Any, Any]] = Field(default_factory=dict)
    use: Literal["split", "train", "validation"] = "split"
    weight: PositiveFloat = 1.0

    @field_validator("smooth")
    @classmethod
    def _check_smooth(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an odd number of cells")
        return value


class Channel(Block):
    """A coarse variable: its transform, and its bounds ("auto": from its name and units)."""

    name: str
    transform: Literal["linear", "log1p", "local"] = "linear"
    units: str | None = None
    bounds: Literal["auto"] | tuple[float | None, float | None] | None = "auto"


Named = Annotated[Channel, BeforeValidator(_as_block)]


class ValidationSplit(Block):
    """Held-out times: a last ``fraction`` of each source, or the dates of ``span``, separated by a ``gap``.

    ``gap`` is a number of time steps, or a time such as "6 hours". It belongs to neither side, so that weather does not
    leak between them. ``patches`` is the number of validation patches, the same in every round.
    """

    fraction: Fraction = 0.2
    span: tuple[str, str] | None = None
    gap: Annotated[int, Field(ge=0)] | str = 1
    patches: PositiveInt = 256

    @field_validator("gap")
    @classmethod
    def _check_gap(cls, value: int | str) -> int | str:
        if isinstance(value, str):
            seconds_of(value)
        return value


class Data(Block):
    """Training data: sources, variables, static features.

    ``vectors`` names pairs of outputs, or of predictors, that are components along the axes of columns and of rows.
    They change sign and places in mirrored or transposed patches. Pairs with standard names of components need no
    entry.
    """

    factor: TwoSizes
    pairs: list[Pair] = Field(min_length=1)
    outputs: list[Named] = Field(min_length=1)
    predictors: list[Named] = Field(default_factory=list)
    vectors: list[tuple[str, str]] = Field(default_factory=list)
    statics: Annotated[list[str], among(STATICS)] = Field(default_factory=list)
    encodings: Annotated[list[str], among(ENCODINGS)] = Field(default_factory=list)
    validation: ValidationSplit = ValidationSplit()

    @model_validator(mode="after")
    def _check_vectors(self) -> Data:
        groups = [[channel.name for channel in self.outputs], [channel.name for channel in self.predictors]]
        for pair in self.vectors:
            if not any(pair[0] in names and pair[1] in names for names in groups) or pair[0] == pair[1]:
                legal = listing([name for names in groups for name in names])
                raise ValueError(f"vectors of two outputs or two predictors among {legal}, not {list(pair)}")
        components = [name for pair in self.vectors for name in pair]
        if len(set(components)) < len(components):
            raise ValueError(f"vectors that share no component, not {self.vectors}")
        return self



class Patches(Block):
    """Sampling of patches: ``size`` in coarse cells, mirrored and turned with ``augment``.

    Every square kilometre of a source has the same expected weight, with two exceptions. A training patch has at most
    the fraction ``most_missing`` of missing cells. Patches with a constant fine field, such as dry ones, carry little
    information, so only ``dry_keep_fraction`` of them is kept, with larger weight in validation. Coarse cells within
    ``margin`` of the edge of a patch are not scored. Maps are cached in memory up to ``cache_mb``.
    """

    size: TwoSizes = (16, 16)
    augment: bool = True
    most_missing: Annotated[float, Field(ge=0, le=1)] = 0.5
    # Recipes of older checkpoints have "quiet".
    dry_keep_fraction: float = Field(
        default=0.1, ge=0, le=1, validation_alias=AliasChoices("dry_keep_fraction", "quiet")
    )
    margin: Annotated[int, Field(ge=0)] = 0
    cache_mb: PositiveFloat = 1024.0


class Network(Block):
    """Network, its options, and how it conserves cell means.

    ``kept`` is the fraction of its detail that is added outside training; less is safer on data unlike the training
    data. ``noise``, channels at coarse and at fine resolution, makes it an ensemble.
    """

    name: str = "residual"
    options: dict[str, Any] = Field(default_factory=dict)
    constraint: Annotated[str | None, among(CONSTRAINTS)] = None
    taps: int = 7
    order: float = 1.25
    kept: Annotated[float, Field(gt=0, le=1)] = 1.0
    noise: Annotated[tuple[NonNegativeInt, NonNegativeInt], BeforeValidator(_as_pair)] = (0, 0)


class EventLoss(Block):
    """Training loss of a mask; the options are those of "tversky"."""

    name: Literal["tversky", "dice", "bce"] = "tversky"
    alpha: NonNegativeFloat = 0.3
    beta: NonNegativeFloat = 0.7
    gamma: Annotated[float, Field(ge=1)] = 1.0


class Training(Block):
    """Duration and speed of training; a run ends at the first of ``steps``, ``max_time`` and ``patience``.

    ``round`` is the number of steps between two validations. ``patience`` is the number of rounds without improvement
    after which a run stops. The learning rate follows the fraction of ``steps`` or ``max_time`` done, whichever is
    larger. ``clock`` selects wall time or the processor time of this process for ``max_time``. Processor time gives two
    trainings the same budget on a shared machine; it excludes ``workers`` and accelerators. ``loss_scale`` divides
    errors by the standard deviation of the variable or of the patch, or by the error of the "kernel", averaged between
    patch and source. With "kernel" the model does not degrade fields that the kernel represents well. ``members`` of an
    ensemble are generated at each step. ``devices``, ``num_nodes``, ``strategy`` and ``accelerator`` are those of
    Lightning's Trainer.
    """

    loss: dict[str, Any] = Field(default_factory=lambda: {"mse": 1.0})
    loss_scale: Literal["variable", "patch", "kernel"] = "variable"
    steps: PositiveInt | None = None
    max_time: Seconds | None = None
    clock: Literal["wall", "cpu"] = "wall"
    round: PositiveInt = 200
    patience: PositiveInt | None = None
    batch: PositiveInt = 16
    members: Annotated[int, Field(ge=2, le=64)] = 2
    learning_rate: PositiveFloat = 1e-3
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup: Fraction = 0.1
    weight_decay: NonNegativeFloat = 1e-4
    clip: PositiveFloat | None = 1.0
    ema: Fraction = 0.999
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(str)] = "32"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    workers: Annotated[int, Field(ge=0)] = 0
    accelerator: str = "auto"
    devices: int | str | list[int] = "auto"
    num_nodes: PositiveInt = 1
    strategy: str = "auto"
    save_every: Seconds = 300.0
    logger: Literal["csv", "tensorboard"] | None = "csv"

    @field_validator("strategy")
    @classmethod
    def _check_strategy(cls, value: str) -> str:
        if any(word in value for word in ("spawn", "fork", "notebook", "xla")):
            raise ValueError("a strategy that starts its processes as commands, such as 'ddp'")
        return value


class EventRule(Block):
    """A rare event of a field: ``above`` or ``below`` a value, inclusive, in the ``units`` of the field."""

    name: str = "event"
    above: float | None = None
    below: float | None = None
    units: str

    @model_validator(mode="after")
    def _check_threshold(self) -> EventRule:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"one threshold, above or below, not above={self.above} and below={self.below}")
        if not self.name.isidentifier():
            raise ValueError("a name of letters, digits and underscores, such as heavy_rain")
        return self

    @property
    def side(self) -> Literal["above", "below"]:
        """Side of the threshold on which the event occurs."""
        return "below" if self.above is None else "above"

    @property
    def threshold(self) -> float:
        """Threshold of the event."""
        return float(self.below if self.above is None else self.above)  # type: ignore[arg-type]

    @property
    def sign(self) -> int:
        """One where the event is above its threshold, else minus one."""
        return 1 if self.side == "above" else -1

    def require_units(self, name: str, units: str) -> None:
        """Refuse an event in other units than its variable's."""
        if not same_units(self.units, units):
            raise OptionError(
                f"expected the threshold of {self.name!r} in {units!r} as {name!r} is, received {self.units!r}; "
                "convert it"
            )


class EventBlock(EventRule):
    """An event whose mask is learned; ``name`` is that of the flag variable.

    ``loss`` is "bce", "dice", or "tversky". The latter has ``alpha`` and ``beta``, the costs of false alarms and of
    missed events, and ``gamma`` (above one: focal). On the validation split, probabilities are calibrated, and the flag
    threshold is the probability with the best score ``decision``.
    """

    loss: Annotated[EventLoss, BeforeValidator(_as_block)] = Field(default_factory=lambda: EventLoss())
    decision: Literal["csi", "f1", "f2"] = "csi"


class CodeBlock(Block):
    """Code of a compressor: ``channels`` bytes per coarse cell beside its mean.

    ``width`` and ``depth`` are channels and residual blocks of the encoder; the network is the decoder.
    """

    channels: Annotated[int, Field(ge=1, le=64)]
    width: PositiveInt = 48
    depth: Annotated[int, Field(ge=0, le=64)] = 1


class Output(Block):
    """Path of the checkpoint, and folder of the logs and of the state for resuming.

    ``half`` stores large weights as 16-bit numbers: half the size, without measurable effect on scores.
    """

    path: str
    folder: str | None = None
    overwrite: bool = False
    half: bool = False


class TrainingRecipe(Block):
    """One training: data, patches, network, training, output; ``licence`` and ``attribution`` appear in the card.

    ``conserve`` is "cell" (cell conservation by construction) or None. ``task: segmentation`` trains masks of
    ``event``, to which conservation does not apply. ``task: compression`` trains an encoder of fine fields to ``code``,
    with the network as decoder.
    """

    title: str = "a learned downscaling model"
    description: str = ""
    licence: str = ""
    attribution: list[str] = Field(default_factory=list)
    task: Literal["downscaling", "segmentation", "compression"] = "downscaling"
    event: EventBlock | None = None
    code: CodeBlock | None = None
    data: Data
    patches: Patches = Patches()
    network: Network = Network()
    training: Training = Training()
    conserve: Literal["cell"] | None = "cell"
    output: Output


def load_training(path: str | Path, change: Mapping[str, Any] | None = None) -> TrainingRecipe:
    """Return the recipe of a YAML file; relative paths refer to the current folder.

    ``change`` replaces values of the file by the path of their key: ``{"network.options.width": 32}``.
    """
    return read_recipe(TrainingRecipe, path, change)


def parse_training(content: dict[str, Any], origin: str = "recipe") -> TrainingRecipe:
    """Return the recipe from its parsed content.

    Examples
    --------
    >>> data = {"factor": 4, "outputs": ["pr"], "pairs": [{"fine": "radar.nc"}]}
    >>> parse_training({"data": data, "output": {"path": "rain.safetensors"}}).data.factor
    (4, 4)
    """
    return validate_block(TrainingRecipe, content, origin)
