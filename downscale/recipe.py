"""Recipes: what to read, how to downscale, what to write, as YAML checked by pydantic (knows no data).

YAML is safe-loaded; an unknown key is an error that names its path and the legal keys.
"""

from __future__ import annotations

import difflib
import reprlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from downscale.errors import InputError, OptionError, listing

_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother = 2, 100, 100


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key may come once only; the library would take the last of two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, or raise where a key comes twice."""
        keys = [(key.value, key.start_mark.line + 1) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: dict[Any, int] = {}
        for key, line in keys:
            if key in seen and key != "<<":
                raise yaml.YAMLError(f"key {key!r} in line {seen[key]} again in line {line}")
            seen[key] = line
        return super().construct_mapping(node, deep)


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Input(_Block):
    """What to read.

    ``path`` is a file, a pattern, or ``sample:NAME`` for a field that ships with the package.
    """

    path: str
    variables: list[str] | None = None
    chunks: dict[str, int] | int | str | None = "auto"


class Statics(_Block):
    """Fine-resolution companions: a file (or ``sample:NAME``) with the orography in metres, land fraction if any."""

    orog: str
    variable: str | None = None


class Downscale(_Block):
    """How to downscale; see :func:`downscale.downscale`.

    ``target_grid`` is a file, a resolution such as "0.25x0.25", or a frequency by dimension (``{time: D}``);
    ``mask`` and ``sftlf`` are files; ``method`` is a name or the path of a checkpoint.
    """

    factor: Any = None
    target_grid: str | dict[str, str] | None = None
    mask: str | None = None
    sftlf: str | None = None
    na_thres: float = Field(default=1.0, ge=0, le=1)
    method: str = "sobolev"
    conserve: Literal["cell", "total"] | None = "cell"
    bounds: Any = "auto"
    quantity: Literal["intensive", "extensive"] | None = None
    taps: int = 7
    order: float | None = None
    device: str | None = None


class Penalty(_Block):
    """Settings of the terrain-gradient penalty; see :class:`downscale.TerrainPenalty`."""

    base_gradient: float = Field(ge=0)
    ratio: float = Field(default=0.0, ge=0)
    weight: float = Field(default=1.0, ge=0)
    iterations: int = Field(default=10, ge=0)


class Terrain(_Block):
    """What the relief adds and what it allows."""

    lapse_rate: float | None = None
    penalty: Penalty | None = None


class Validation(_Block):
    """The law that the written file must keep."""

    law: Literal["cell", "total"] = "cell"
    tolerance: PositiveFloat | None = None


class Output(_Block):
    """What to write: the NetCDF file (or Zarr store, ``.zarr``), and a map and a report if named.

    ``packing``, ``profile``, ``attrs`` and ``encoding`` are as in :func:`downscale.to_netcdf`. ``blocks`` cuts the run
    along time, into so many steps or into periods such as "5 years"; ``merge`` joins them into one file in the end,
    else each is a file named by its dates.
    """

    path: str
    map: str | None = None
    report: str | None = None
    complevel: int = Field(default=1, ge=0, le=9)
    packing: str | int | dict[str, str | int] | None = None
    profile: str | dict[str, Any] | None = None
    attrs: dict[str, Any] | None = None
    encoding: dict[str, dict[str, Any]] | None = None
    overwrite: bool = False
    blocks: int | str | None = None
    merge: bool = True


class Profile(_Block):
    """A cluster to start, or the address of the scheduler of one that runs, as in ESMValCore's configuration."""

    cluster: dict[str, Any] | None = None
    scheduler_address: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Profile:
        if (self.cluster is None) == (self.scheduler_address is None):
            raise ValueError("either cluster or scheduler_address")
        return self


class Dask(_Block):
    """Clusters by name, and which of them to use."""

    use: str | None = None
    profiles: dict[str, Profile] = {}

    @model_validator(mode="after")
    def _known(self) -> Dask:
        if self.use is not None and self.use not in self.profiles:
            raise ValueError(f"use to be the name of a profile ({listing(self.profiles) or 'there is none'})")
        return self


class Recipe(_Block):
    """One run: read, statics, downscale, terrain, validate, write."""

    title: str = "downscaling"
    description: str = ""
    input: Input
    statics: Statics | None = None
    downscale: Downscale
    terrain: Terrain = Terrain()
    validation: Validation = Field(default=Validation(), alias="validate")
    output: Output
    dask: Dask = Dask()


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises
    ------
    InputError
        If there is no such file or it is not YAML.
    OptionError
        If a key is unknown or a value is not legal; the line names the path of the key.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"expected an existing recipe file, received {file}; check the path")
    try:
        content = _Loader(file.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"expected a YAML recipe, received {file} ({reason})") from None
    if not isinstance(content, dict):
        raise InputError(f"expected a recipe of keys and values, received {type(content).__name__} in {file}")
    return parse_recipe(content, str(file))


def parse_recipe(content: dict[str, Any], origin: str = "recipe") -> Recipe:
    """Check the content of a recipe.

    Raises
    ------
    OptionError
        With one line for the first fault.

    Examples
    --------
    >>> content = {"input": {"path": "a.nc"}, "downscale": {"factor": 2}, "output": {"path": "b.nc"}}
    >>> parse_recipe(content).downscale.factor
    2
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise OptionError(f"{origin}: {_reason(first, place)}") from None


def _reason(fault: Any, place: str) -> str:
    if fault["type"] == "extra_forbidden":
        legal = _legal_keys(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), legal, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"expected a key among {listing(legal)}, received {place!r}{hint}"
    if fault["type"] == "missing":
        return f"expected the key {place!r}, received none; add it"
    wanted = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if fault["type"] == "model_type":
        wanted = f"the keys {listing(_legal_keys(fault['loc']))}"
    # Of a nest of lists only the beginning is shown.
    return f"key {place!r}: expected {wanted}, received {_SHOWN.repr(fault['input'])}"


def _legal_keys(place: tuple[Any, ...]) -> list[str]:
    """Return the keys of the block at ``place``."""
    block: Any = Recipe
    for part in place:
        fields = {(field.alias or name): field for name, field in block.model_fields.items()}
        if part not in fields:
            continue  # a name that the user gave, whose block is known already
        annotation = fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        block = next(option for option in options if isinstance(option, type) and issubclass(option, _Block))
    return [field.alias or name for name, field in block.model_fields.items()]
