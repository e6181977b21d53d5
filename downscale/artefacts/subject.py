"""Subjects of a diagnosis: a kernel by name or sizes, weights in a file, a model, or fields."""

from __future__ import annotations

import re
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from downscale.artefacts.diagnosis import Diagnosis
from downscale.artefacts.kernel import Kernels, board_section, diagnose_kernels, method_kernels, simple_images
from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import Horizontal, horizontal
from downscale.cf.kinds import is_categorical
from downscale.errors import DownscaleError, InputError, OptionError, OutputError, listing
from downscale.io.paths import check_target, regular_file
from downscale.kernels.coverage import require_no_holes
from downscale.kernels.imaging import REFERENCES, require_finer
from downscale.kernels.laws import kernel_geometry
from downscale.metrics.checkerboard import Checkerboard, checkerboard
from downscale.models import NAMES

# Default factor of a kernel given by name.
DEFAULT_FACTOR = 4
# Larger kernels take gigabytes, and a larger factor in one step is unusual.
LARGEST, MOST_TAPS = 256, 2048
SIZES = re.compile(r"transposed:\d+(x\d+)?(,\d+(x\d+)?){1,2}")
EXAMPLES = "a kernel such as 'sobolev' or 'transposed:5,2', weights.npy, a model, or a NetCDF file"
Pair = tuple[int, int]
# Coarse cells along a side of the piece of a field in the figure.
PIECE_CELLS = 10


def is_model(target: str) -> bool:
    """Return whether a target is a model: a bundled one, or a checkpoint."""
    return target in NAMES or target.endswith(".safetensors")


def require_outputs(target: str, as_json: Path | None, figure: Path | None) -> None:
    """Raise an OutputError for output files that cannot be written, or are inputs, before any work is done."""
    inputs = (target, *(glob(target) if any(mark in target for mark in "*?[") else ()))
    if as_json is not None:
        if not as_json.parent.is_dir() or as_json.is_dir():
            raise OutputError(
                f"expected a file in an existing folder for --json, received '{as_json}'; create the folder"
            )
        check_target(as_json, True, inputs)
    if figure is not None:
        from downscale.plot.style import check_path

        check_path(figure, inputs)
    if as_json is not None and figure is not None and as_json.resolve() == figure.resolve():
        raise OutputError(f"expected different names for --json and --figure, received {figure} for both; rename one")


def diagnose(target: str, factor: int | Pair | None = None, variable: str | None = None) -> Diagnosis:
    """Return the diagnosis of a kernel (by name, as ``transposed:K,S,P``, or in a ``.npy`` file), a model, or a file.

    ``factor`` is fine cells per coarse cell, which weights and fields in files need; ``variable`` is one of the fields.

    Examples
    --------
    >>> diagnose("transposed:5,2").facts["coverage"]["variation"]
    5
    """
    pair = (factor, factor) if isinstance(factor, int) else factor
    if pair is not None and max(pair) > LARGEST:
        raise OptionError(f"expected a factor of at most {LARGEST}, received {max(pair)}; inspect a smaller one")
    if is_model(target):
        return _diagnose_model(target, pair)
    if target in REFERENCES:
        return diagnose_kernels(method_kernels(target, _require_finer(pair or (DEFAULT_FACTOR, DEFAULT_FACTOR))))
    if target.startswith("transposed:"):
        return _diagnose_equal_weights(target, pair)
    if target.endswith(".npy"):
        return _diagnose_weights(Path(target), pair)
    return _diagnose_file(target, pair, variable)


def _require_finer(factor: Pair) -> Pair:
    if min(factor) < 1 or max(factor) < 2:
        raise OptionError(f"expected a factor of at least 2 along some axis, received {factor[0]} x {factor[1]}")
    return factor


def _diagnose_equal_weights(target: str, factor: Pair | None) -> Diagnosis:
    if not SIZES.fullmatch(target):
        raise OptionError(f"expected transposed:K,S or transposed:K,S,P such as transposed:5,2, received {target!r}")
    pairs: list[Pair] = []
    for text in target.removeprefix("transposed:").split(","):
        rows, _, columns = text.partition("x")
        pairs.append((int(rows), int(columns or rows)))
    kernel, stride, padding = pairs[0], pairs[1], pairs[2] if len(pairs) > 2 else None
    if max(*kernel, *stride) > MOST_TAPS:
        raise OptionError(f"expected a kernel of at most {MOST_TAPS} cells along an axis, received {target!r}")
    if factor is not None and factor != stride:
        raise OptionError(f"expected no factor beside the stride of {target!r}, received {factor[0]}; leave it out")
    sizes, strides, pads = kernel_geometry(kernel, stride, padding)
    require_finer(strides)
    require_no_holes(sizes, strides, pads)
    weights = np.full((1, *sizes), strides[0] * strides[1] / (sizes[0] * sizes[1]))
    return diagnose_kernels(
        Kernels(f"equal weights {target.removeprefix('transposed:')}", weights, stride, (pads[0], pads[1]))
    )


def _diagnose_weights(path: Path, factor: Pair | None) -> Diagnosis:
    if factor is None:
        raise OptionError(f"expected --factor, the stride of the weights in {path}, received none")
    path = regular_file(path, "weights")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"expected an array of weights, received {path}: {' '.join(str(error).split())}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or not 1 <= array.ndim <= 4 or not array.size:
        kind = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"expected weights (k,), (k_y, k_x) or (in, out, k_y, k_x) in {path}, received {kind}")
    weights = np.asarray(array, dtype=np.float64)
    # A single axis is used for both.
    weights = np.outer(weights, weights) if weights.ndim == 1 else weights
    sizes, strides, pads = kernel_geometry(tuple(weights.shape[-2:]), _require_finer(factor))
    kernels = weights.reshape(-1, *sizes)
    return diagnose_kernels(Kernels(path.name, kernels, (strides[0], strides[1]), (pads[0], pads[1])))


def _diagnose_model(target: str, factor: Pair | None) -> Diagnosis:
    from downscale.artefacts.model import diagnose_model
    from downscale.methods.learned import load_method

    model = load_method(target, factor)
    if factor is not None and factor != model.spec.factor:
        text = " x ".join(map(str, model.spec.factor))
        raise OptionError(f"expected the factor of the model, {text}, received {factor[0]} x {factor[1]}; leave it out")
    return diagnose_model(model, Path(target).name)


def _diagnose_file(target: str, factor: Pair | None, variable: str | None) -> Diagnosis:
    from downscale.io.read import find_files, open_dataset

    if "." not in Path(target).name and not Path(target).exists():
        raise OptionError(f"expected one of {listing((*REFERENCES, *NAMES))}, or {EXAMPLES}, received {target!r}")
    files = find_files(target)
    if factor is None:
        raise OptionError(
            f"expected --factor, how many times finer the fields of {Path(target).name} were made, received none"
        )
    with open_dataset(target) as ds:
        return diagnose_field(ds, Path(files[0]).name if len(files) == 1 else target, _require_finer(factor), variable)


def diagnose_field(ds: xr.Dataset, name: str, factor: tuple[int, int], variable: str | None = None) -> Diagnosis:
    """Return the diagnosis of patterns that repeat with the coarse cells, by variable of a file; reads lazily."""
    axes = horizontal(ds, guess=True)
    names = _select_fields(ds, axes, variable)
    diagnosis, boards = Diagnosis(name, "field", factor), {}
    for field_name in names:
        data = ds[field_name].transpose(..., *axes.dims).data
        try:
            boards[field_name] = board = checkerboard(data, factor)
        except DownscaleError as error:
            raise type(error)(f"{field_name}: {error}") from None
        if diagnosis.board is None:
            _add_pictures(diagnosis, board, data)
    facts = {field_name: board.to_dict() for field_name, board in boards.items()}
    diagnosis.sections.append(board_section(facts))
    diagnosis.facts["checkerboard"] = facts
    return diagnosis


def _select_fields(ds: xr.Dataset, axes: Horizontal, variable: str | None) -> list[str]:
    fields = [name for name in horizontal_variables(ds, axes) if ds[name].dtype.kind in "fiu"]
    names = [name for name in fields if not is_categorical(ds[name])]
    if variable is None and names:
        return names
    if variable is None or variable not in names:
        raise InputError(f"expected a variable among {listing(names) or 'none over both axes'}, received {variable!r}")
    return [variable]


def _add_pictures(diagnosis: Diagnosis, board: Checkerboard, data: Any) -> None:
    """Add the checkerboard of a field, a piece of its first map, and its images, for the figure."""
    first_map = np.asarray(data[(0,) * (data.ndim - 2)], dtype=np.float64)
    slices = []
    for n, f in zip(first_map.shape, diagnosis.factor, strict=True):
        size = min(n, PIECE_CELLS * f)
        start = (n - size) // 2 // f * f
        slices.append(slice(start, start + size))
    diagnosis.board, diagnosis.piece = board, first_map[tuple(slices)]
    diagnosis.rejection = {"index": simple_images(board.images)}
