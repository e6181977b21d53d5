"""Patches of maps for training: cut, padded, reoriented and joined into batches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downscale.errors import OptionError
from downscale.fields.aggregate import Aggregation
from downscale.fields.gradient import Spacing
from downscale.training.pairs import MapCache, Source
from downscale.training.sampling import PatchIndex, lattice, patch_coverage, patch_size, tile_coverage
from downscale.training.schema import Data, Patches

# Orientations of a square: bit 1 mirrors rows, bit 2 columns, bit 4 transposes.
MIRROR_ROWS, MIRROR_COLUMNS, SWAP = 1, 2, 4
ASPECT = ("aspect_sin", "aspect_cos")
# Words of a standard name, with direction, and whether the direction is one of the grid's own axes.
DIRECTIONS = {"eastward": ("x", False), "northward": ("y", False), "x": ("x", True), "y": ("y", True)}
OTHER_WORD = {"eastward": "northward", "northward": "eastward", "x": "y", "y": "x"}
# Common names of components without a standard name.
BY_NAME = re.compile(r"\d*[uv]\d*m?|[uv](a|as|o|si|ice|wnd|grd|gos|geo|bar)\d*m?|tau[uvxy]o?|(si|sic)?str[xy]",
                     re.IGNORECASE)  # fmt: skip
BY_WORDS = re.compile(r"\b(u|v|x|y|zonal|meridional|eastward|northward)[ _-]+(component|wind|velocity|current|stress)"
                      r"|component of (the )?(wind|velocity|current)", re.IGNORECASE)  # fmt: skip
# Words of fields whose sign or angle changes in a mirror.
HANDED = re.compile(r"vorticity|helicity|stream_?function|(from|to)_direction|\bdirection\b", re.IGNORECASE)
# Area fractions that differ by less count as equal.
EQUAL_AREAS = 1e-12
EMPTY: NDArray[np.float64] = np.empty((0, 0))
# Fields of a patch that hold the variables of each group.
COMPONENT_FIELDS = {"outputs": ("target", "proposal", "coarse"), "predictors": ("predictors",), "statics": ("statics",)}
# Fields of a patch with rows and columns.
FIELDS = ("target", "proposal", "coarse", "predictors", "statics", "area_fraction", "weight", "dy", "dx")


@dataclass(frozen=True)
class Component:
    """One component of a vector along the axes of the grid."""

    group: str  # group of fields that it belongs to
    index: int  # its index in the group
    axis: str  # axis along which it points
    partner: int | None = None  # index of the other component in the same group; None if there is none


def static_components(channels: Sequence[str]) -> tuple[Component, ...]:
    """Return the vector components among the static channels, which are those of the aspect."""
    if ASPECT[0] not in channels:
        return ()
    east, north = (list(channels).index(name) for name in ASPECT)
    return Component("statics", east, "x", north), Component("statics", north, "y", east)


def count_orientations(components: Iterable[Component]) -> int:
    """Return the number of possible orientations: 8, or 4 without transposition if a component has no partner."""
    return 8 if all(component.partner is not None for component in components) else 4


def variable_components(
    data: Data, attributes: Sequence[dict[str, Any]], is_geographic: Sequence[bool]
) -> tuple[Component, ...]:
    """Return the components of vectors among outputs and predictors."""
    groups = {
        "outputs": [channel.name for channel in data.outputs],
        "predictors": [channel.name for channel in data.predictors],
    }
    named_vectors = {name: (axis, partner_name) for pair in data.vectors for name, axis, partner_name in
             ((pair[0], "x", pair[1]), (pair[1], "y", pair[0]))}  # fmt: skip
    components = []
    for group, names in groups.items():
        directions = {name: named_vectors.get(name) or _component(name, attributes, is_geographic) for name in names}
        for name, direction in directions.items():
            if direction is None:
                continue
            axis, partner_name = direction
            partner = next(
                (n for n in names if n != name and partner_name == _label(n, attributes, named_vectors)), None
            )
            partner_index = None if partner is None else names.index(partner)
            components.append(Component(group, names.index(name), axis, partner_index))
    return tuple(components)


def _label(name: str, attributes: Sequence[dict[str, Any]], named_vectors: dict[str, Any]) -> str:
    """Return the name by which a partner refers to a variable: from the recipe, else its standard name."""
    return name if name in named_vectors else str(_attributes_of(name, attributes).get("standard_name", ""))


def _attributes_of(name: str, attributes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the attributes of a variable in the first source with a standard name, else in the first source."""
    candidates = (source[name] for source in attributes if source[name].get("standard_name"))
    attrs: dict[str, Any] = next(candidates, attributes[0][name])
    return attrs


def _component(
    name: str, attributes: Sequence[dict[str, Any]], is_geographic: Sequence[bool]
) -> tuple[str, str] | None:
    """Return the axis of a component and the standard name of its partner; None for other fields."""
    attrs = _attributes_of(name, attributes)
    standard, long_name = str(attrs.get("standard_name", "")), str(attrs.get("long_name", ""))
    if any(HANDED.search(text) for text in (standard, long_name, name)):
        raise _component_error(name, "whose sign or angle changes in a mirror")
    words = standard.split("_")
    directions = [word for word in words if word in DIRECTIONS]
    # "grid_eastward_wind" is along the grid, whatever its direction.
    if len(directions) == 1:
        axis, of_grid = DIRECTIONS[directions[0]]
        if not of_grid and "grid" not in words and not all(is_geographic):
            raise _component_error(name, "whose east is not that of the grid's axes")
        return axis, "_".join(OTHER_WORD[word] if word == directions[0] else word for word in words)
    if (
        directions
        or BY_NAME.fullmatch(name)
        or BY_NAME.fullmatch(str(attrs.get("name", name)))
        or BY_WORDS.search(long_name)
    ):
        raise _component_error(name, "a component of a vector by its name")
    return None


def _component_error(name: str, reason: str) -> OptionError:
    return OptionError(
        f"patches.augment: expected fields with known behaviour in a mirror, received {name!r}, {reason}; name pairs "
        "along the grid's axes as data.vectors: [[U, V]], or set patches.augment: false"
    )


def reorient_array(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an array with its last two axes mirrored and transposed."""
    if orientation & MIRROR_ROWS:
        array = array[..., ::-1, :]
    if orientation & MIRROR_COLUMNS:
        array = array[..., ::-1]
    return array.swapaxes(-2, -1) if orientation & SWAP else array


def reorient_components(
    fields: NDArray[Any], components: Iterable[Component], orientation: int, same_direction: bool
) -> NDArray[Any]:
    """Return fields with components corrected after :func:`reorient_array`, which treats them as scalars."""
    result = fields.copy()
    for component in components:
        is_mirrored = orientation & (MIRROR_COLUMNS if component.axis == "x" else MIRROR_ROWS)
        sign = -1 if is_mirrored else 1
        if not orientation & SWAP:
            result[component.index] = sign * fields[component.index]
            continue
        assert component.partner is not None
        # Rows that run southward point along minus north.
        result[component.partner] = (sign if same_direction else -sign) * fields[component.index]
    return result


@dataclass(frozen=True, eq=False)
class Sample:
    """One patch; missing values and the padding of small grids are NaN."""

    # (V, Y, X): reference and Sobolev upsampling.
    target: NDArray[np.float32]
    proposal: NDArray[np.float32]
    # (V, y, x) and (P, y, x): inputs of the model.
    coarse: NDArray[np.float32]
    predictors: NDArray[np.float32]
    statics: NDArray[np.float32]  # (S, Y, X): fine static features
    time_features: NDArray[np.float32]  # (E,): time features
    area_fraction: NDArray[np.float64]  # (Y, X): area fractions of fine cells within their coarse cell
    # (Y, X): areas relative to the mean of the source, divided by the relative coverage of each cell; zero where not
    # scored.
    weight: NDArray[np.float32]
    # (Y, X): distances in metres from the row and column before to those after; empty unless a loss needs them.
    dy: NDArray[np.float64] = field(default_factory=lambda: EMPTY)
    dx: NDArray[np.float64] = field(default_factory=lambda: EMPTY)
    source: int = 0  # index of its source


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches joined along a batch axis, with the operator A of each; other shapes as in :class:`Sample`."""

    target: Tensor
    proposal: Tensor
    coarse: Tensor
    predictors: Tensor
    statics: Tensor
    time_features: Tensor
    weight: Tensor
    source: Tensor
    cells: Aggregation
    spacing: Spacing | None = None

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """Return the batch with its tensors on another device, as libraries expect."""
        tensors = {key: value.to(*args, **kwargs) for key, value in self.__dict__.items() if isinstance(value, Tensor)}
        return Batch(**tensors, cells=self.cells, spacing=self.spacing)


class PatchSet(torch.utils.data.Dataset[Sample]):
    """Patches by key: co-registered target, proposal, coarse and static fields of one place and time."""

    def __init__(
        self, cache: MapCache, components: tuple[Component, ...], settings: Patches, has_spacings: bool = False,
        has_tiles: bool = False,
    ) -> None:  # fmt: skip
        self.cache, self.components, self.settings = cache, components, settings
        self._spacings = [Spacing.of(source.fine) for source in cache.sources] if has_spacings else []
        self._coverage = [_coverage_of(source, settings, has_tiles) for source in cache.sources]
        # Areas are relative to the mean over the cells that patches cover.
        self._area = [
            float(source.grid.cell_area[coverage > 0].mean()) / (source.cells.factor_y * source.cells.factor_x)
            for source, coverage in zip(cache.sources, self._coverage, strict=True)
        ]

    def with_tiles(self) -> PatchSet:
        """Return the patches of the same maps for validation keys."""
        return PatchSet(self.cache, self.components, self.settings, bool(self._spacings), has_tiles=True)

    def __getitem__(self, key: PatchIndex) -> Sample:
        """Return one patch, cut and reoriented."""
        source = self.cache.sources[key.source]
        maps = self.cache.get(key.source, key.number)
        size = patch_size(self.settings, source.grid.shape)
        rows, columns = (np.arange(first, first + n) for first, n in zip((key.row, key.column), size, strict=True))
        f_y, f_x = source.cells.factor_y, source.cells.factor_x
        coarse = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        fine = (coarse[0], *(slice(s.start * f, s.stop * f) for s, f in zip(coarse[1:], (f_y, f_x), strict=True)))
        coverage = self._coverage[key.source][coarse[1:]].repeat(f_y, axis=0).repeat(f_x, axis=1)
        weight = np.divide(source.fine.cell_area[fine[1:]], coverage, out=np.zeros(coverage.shape), where=coverage > 0)
        dy, dx = EMPTY, EMPTY
        if self._spacings:
            spacing = self._spacings[key.source]
            dy, dx = np.broadcast_to(spacing.dy_cells, spacing.shape)[fine[1:]], spacing.dx[fine[1:]]
        sample = Sample(
            target=maps.target[fine], proposal=maps.proposal[fine], coarse=maps.coarse[coarse],
            predictors=maps.predictors[coarse], statics=source.statics[fine],
            time_features=source.time_features[source.index(key.number)[0]],
            area_fraction=_area_fractions(source.cells.window(rows, columns)),
            weight=_without_margin(weight * (key.weight / self._area[key.source]), self.settings.margin, (f_y, f_x)),
            source=key.source, dy=dy, dx=dx,
        )  # fmt: skip
        same_direction = source.fine.y.ascending == source.fine.x.ascending
        sample = pad_sample(sample, self.settings.size, (f_y, f_x))
        return reorient_sample(sample, key.orientation, self.components, same_direction)


def _coverage_of(source: Source, settings: Patches, has_tiles: bool) -> NDArray[np.float64]:
    """Return the relative coverage of each coarse cell of a source."""
    shape = source.grid.shape
    size = patch_size(settings, shape)
    rows, columns = (lattice(n, part) for n, part in zip(shape, size, strict=True))
    if has_tiles:
        return tile_coverage(shape, rows, columns, size, settings.margin)
    return patch_coverage(source.grid.cell_area, rows, columns, size, settings.margin)


def _area_fractions(cells: Aggregation) -> NDArray[np.float64]:
    return np.asarray(cells.fractions(np.float64(0)))


def _without_margin(weight: NDArray[np.float64], margin: int, factor: tuple[int, int]) -> NDArray[np.float32]:
    """Return weights that are zero within a margin of the edge, unless no cell would remain."""
    y, x = margin * factor[0], margin * factor[1]
    inner = np.zeros_like(weight)
    inner[y : weight.shape[0] - y, x : weight.shape[1] - x] = 1
    return (weight * (inner if inner.any() else 1)).astype(np.float32)


def pad_sample(sample: Sample, size: tuple[int, int], factor: tuple[int, int]) -> Sample:
    """Return a patch of a small grid padded with missing cells of weight zero."""
    shape = sample.coarse.shape[-2:]
    if shape == size:
        return sample
    padding = [(0, n - m) for n, m in zip(size, shape, strict=True)]
    fine_padding = [(0, end * f) for (_, end), f in zip(padding, factor, strict=True)]
    fields = dict(sample.__dict__)
    for name in (name for name in FIELDS if fields[name].size or name not in ("dy", "dx")):
        array = fields[name]
        fill = {"area_fraction": 1 / (factor[0] * factor[1]), "weight": 0.0}.get(name, np.nan)
        fill = float(array[-1, -1]) if name in ("dy", "dx") else fill
        widths = padding if name in ("coarse", "predictors") else fine_padding
        fields[name] = np.pad(array, [(0, 0)] * (array.ndim - 2) + widths, constant_values=fill)
    return Sample(**fields)


def reorient_sample(sample: Sample, orientation: int, components: Sequence[Component], same_direction: bool) -> Sample:
    """Return a patch with mirrored and transposed rows and columns, vector components included."""
    if orientation == 0:
        return sample
    fields = {name: np.ascontiguousarray(reorient_array(getattr(sample, name), orientation)) for name in FIELDS}
    arrays = {**sample.__dict__, **fields}
    if orientation & SWAP:
        arrays["dy"], arrays["dx"] = arrays["dx"], arrays["dy"]
    for group, names in COMPONENT_FIELDS.items():
        group_components = [component for component in components if component.group == group]
        for name in names if group_components else ():
            arrays[name] = reorient_components(arrays[name], group_components, orientation, same_direction)
    return Sample(**arrays)


def collate(samples: Sequence[Sample], factor: tuple[int, int]) -> Batch:
    """Join patches into a batch, each with its own areas."""
    area_fractions = [sample.area_fraction for sample in samples]
    tensors = {
        name: torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))
        for name in (*FIELDS, "time_features")
        if name not in ("area_fraction", "dy", "dx")
    }
    tensors["weight"] = tensors["weight"].unsqueeze(1)
    source = torch.tensor([sample.source for sample in samples])
    spacing = None
    if samples[0].dy.size:
        # The areas in a loss are the weights.
        dy, dx = (np.stack([getattr(sample, name) for sample in samples])[:, None] for name in ("dy", "dx"))
        spacing = Spacing(dy, dx, tensors["weight"].numpy(), periodic=False)
    return Batch(**tensors, source=source, cells=join_cells(area_fractions, factor), spacing=spacing)


def join_cells(area_fractions: Sequence[NDArray[np.float64]], factor: tuple[int, int]) -> Aggregation:
    """Return the operator A of joined patches, each with its own areas; a single one if all areas agree."""
    rows, columns = area_fractions[0].shape
    equal = np.full(rows, 1 / factor[0]), np.full(columns, 1 / factor[1])
    if all(np.ptp(area_fraction) < EQUAL_AREAS for area_fraction in area_fractions):
        return Aggregation(*equal, *factor)
    same = all(np.array_equal(area_fraction, area_fractions[0]) for area_fraction in area_fractions)
    return Aggregation(*equal, *factor, area_fractions[0] if same else np.stack(area_fractions)[:, None])
