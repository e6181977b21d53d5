"""Compression of fine fields to coarse-cell means and a small code, decoded by a learned model.

Each coarse cell keeps its exact mean and a few bytes of code. Decoding is downscaling by the same model, which
conserves every mean to rounding, however lossy the code is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.api import downscale
from downscale.artefacts.diagnosis import db
from downscale.cf.coordinates import select
from downscale.cf.horizontal import XarrayObject, as_dataset, horizontal
from downscale.cf.quantities import automatic_bounds, quantity_of
from downscale.check.conservation import check_conservation
from downscale.conservation.report import ConservationReport
from downscale.engine.device import device_name
from downscale.errors import InputError, OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.io.encoding import WHOLE_STEPS
from downscale.io.paths import check_netcdf, sources_of
from downscale.io.write import Storage, write_checked
from downscale.methods.learned import ENCODER, SAME, fingerprint, load_method, scale_to, select_outputs
from downscale.methods.registry import is_learned, name_of
from downscale.metrics.checkerboard import checkerboard
from downscale.process.computing import progress_bar
from downscale.runs.single import open_input
from downscale.steps.coarsen import cell_area, coarsen
from downscale.steps.history import add_history
from downscale.steps.prepare import pick_variables

# A missing code in a file; others are -127 ... 127 of these steps.
MISSING, STEP = -128, 1 / 128
# Fine values per batch of the encoder.
MOST_VALUES = 2_000_000


def encode(obj: XarrayObject, model: Any, device: str = "auto") -> xr.Dataset:
    """Compress fine fields to coarse means and a code, which ``downscale(..., method=model)`` decodes.

    Parameters
    ----------
    obj : Dataset or DataArray
        Fine fields; sizes must be multiples of the model's factor. Never modified.
    model : path or Learned
        A compressor (``task: compression`` of a training recipe).
    device : str
        Device of the encoder: "auto" is the first GPU if there is one, else the CPU.

    Returns
    -------
    Dataset
        On the coarse cells, lazy if ``obj`` is: the means under their own names and in their own data type, and
        ``NAME_code_1`` and so on, one byte each in a file.

    Raises
    ------
    OptionError
        If the model is not a compressor.
    InputError, ShapeError
        If variables, units or sizes do not match the model.

    Notes
    -----
    Cell conservation: ``downscale.downscale(downscale.encode(fine, model), method=model)`` has the coarse means of
    ``fine`` to rounding. The code is lossy only for detail within cells.

    References
    ----------
    Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313, 504-507.

    Examples
    --------
    ``small = downscale.encode(rain, "rain_code.safetensors"); downscale.to_netcdf(small, "rain_code.nc")``
    """
    compressor = load_method(model) if is_learned(model) else None
    if compressor is None or compressor.spec.code is None:
        raise OptionError(
            f"expected a compressor (a model of a recipe with task: compression), received {name_of(model)}; train "
            "one, or use coarsen for means alone"
        )
    ds, _ = as_dataset(obj)
    axes = horizontal(ds)
    names = select_outputs(compressor.spec, ds, pick_variables(ds, axes, None))
    for output, name in zip(compressor.spec.outputs, names, strict=True):
        if scale_to(output, ds[name]) != SAME:
            units = str(ds[name].attrs.get("units"))
            raise InputError(f"{name}: expected {output.units!r} as in the training, received {units!r}; convert it")
        if quantity_of(ds[name]) == "extensive":
            raise InputError(f"{name}: expected means over cells to encode, received sums; divide by cell_area first")
    factors = dict(zip(axes.dims, compressor.spec.factor, strict=True))
    coarse: Any = coarsen(select(ds, names), factors)
    codes = _codes(ds, coarse, names, compressor, axes.dims, device_name(device))
    code_ds = coarse.assign(dict(zip(compressor.spec.code_names, codes, strict=True)))
    return add_history(code_ds, f"encode by {name_of(model)}: means of {factors} cells and {len(codes)} bytes each")


def _codes(
    ds: xr.Dataset, coarse: xr.Dataset, names: list[str], compressor: Any, dims: tuple[str, ...], device: str
) -> list[xr.Variable]:
    """Return the variables of the code."""
    spec, coarse_axes = compressor.spec, horizontal(coarse)
    factor = dict(zip(coarse_axes.dims, spec.factor, strict=True))
    kernel = downscale(coarse, factor, taps=spec.taps, order=spec.order, conserve=None, bounds=None, check="skip")
    coarse_dims = [f"{dim}_coarse" for dim in dims]
    fine = [dataset[name].transpose(..., *dims).variable for dataset in (ds, kernel) for name in names]
    means = [coarse[name].transpose(..., *dims).variable for name in names]
    means = [xr.Variable((*mean.dims[:-2], *coarse_dims), mean.data) for mean in means]
    cells = Aggregation.between(coarse_axes.grid, horizontal(ds).grid)
    sizes = {"code": spec.code.channels, **dict(zip(coarse_dims, means[0].shape[-2:], strict=True))}
    latent: Any = xr.apply_ufunc(
        BlockEncoder(compressor, cells, bool(coarse_axes.grid.x.periodic), device), *means, *fine,
        input_core_dims=[coarse_dims] * len(means) + [list(dims)] * len(fine),
        output_core_dims=[list(sizes)], dask="parallelized", output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": sizes, "allow_rechunk": True},
    )  # fmt: skip
    signature = fingerprint(compressor)
    code_encoding: dict[str, Any] = {
        "dtype": np.dtype("i1"), "_FillValue": np.int8(MISSING), "scale_factor": np.float32(STEP), WHOLE_STEPS: True,
    }  # fmt: skip
    return [
        xr.Variable((*latent.dims[:-3], *dims), latent.isel(code=i).data, {
            "long_name": f"code {i + 1} of {spec.code.channels} of {', '.join(names)}", "units": "1",
            ENCODER: signature, "comment": "detail within cells; downscale with the method that encoded it",
        }, dict(code_encoding))
        for i in range(spec.code.channels)
    ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class BlockEncoder:
    """Encodes blocks of maps: means (..., y, x), then fine field and kernel (..., Y, X), to codes (..., C, y, x)."""

    compressor: Any
    cells: Aggregation
    closed: bool
    device: str = "cpu"

    @cached_property
    def device_model(self) -> Any:
        """The model on the device; a copy if that is not the CPU, since the model is shared."""
        return self.compressor if self.device == "cpu" else copy.deepcopy(self.compressor).to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        # Workers of a cluster make their own copy.
        return {key: value for key, value in self.__dict__.items() if key != "device_model"}

    def __call__(self, *fields: NDArray[Any]) -> NDArray[np.float32]:
        """Encode one block, a few maps at a time."""
        import torch

        count = len(self.compressor.spec.outputs)
        shape = np.broadcast_shapes(*(field.shape[:-2] for field in fields))
        stacks = [np.stack([np.broadcast_to(f, (*shape, *f.shape[-2:])).reshape(-1, *f.shape[-2:]) for f in part], 1)
                  for part in (fields[:count], fields[count : 2 * count], fields[2 * count :])]  # fmt: skip
        tensors = [torch.from_numpy(np.ascontiguousarray(stack, dtype=np.float32)) for stack in stacks]
        batch = max(MOST_VALUES // max(stacks[1][0].size, 1), 1) if len(stacks[1]) else 1
        with torch.no_grad():
            pieces = [
                self.device_model.encode(*(t.to(self.device) for t in (target, x, kernel)), self.cells, self.closed)
                .cpu().numpy()
                for x, target, kernel in zip(*(tensor.split(batch) for tensor in tensors), strict=True)
            ]  # fmt: skip
        return np.concatenate(pieces).reshape(*shape, *pieces[0].shape[1:])


def encode_file(
    source: str, output: str | Path, model: Any, *, chunks: Any = "auto", complevel: int = 1, overwrite: bool = False,
    device: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Encode one file into another and return sizes and errors; no file is written if the means are not conserved."""
    fine = open_input(source, chunks)
    check_netcdf(output, overwrite, sources_of(fine))
    code_ds = encode(fine, model, device)
    names = [str(name) for name in code_ds.data_vars if ENCODER not in code_ds[name].attrs and name in fine]

    def check(written: xr.Dataset) -> ConservationReport:
        bounds = {name: automatic_bounds(fine[name]) for name in names}
        return check_conservation(select(written, names), select(fine, names), bounds=bounds)

    report = write_checked(
        code_ds, output, check, overwrite=overwrite,
        storage=Storage(complevel), inputs=sources_of(fine), progress=progress_bar(),
    )  # fmt: skip
    memory, size = sum(fine[name].nbytes for name in names), Path(output).stat().st_size
    error = 0.0 if report is None else max(variable.max_relative_error for variable in report.variables.values())
    return {"bytes_of_fields": memory, "bytes_of_file": size, "ratio": memory / size, "cell_error": error}


def compression_errors(fine: XarrayObject, code_ds: xr.Dataset, model: Any) -> dict[str, dict[str, float]]:
    """Return, by variable, the errors of the field decoded from ``code_ds`` relative to ``fine``, in its units.

    ``rmse`` and ``rmse_kernel`` (the kernel applied to the means alone) are weighted by area; the checkerboard indices
    in dB are NaN for maps that are too small.
    """
    compressor, truth = load_method(model), as_dataset(fine)[0]
    factor, results = compressor.spec.factor, {}
    decoded = downscale(code_ds, method=model, check="skip")
    area = cell_area(truth)
    for name in (str(key) for key in decoded.data_vars if key in truth and key in code_ds):
        factors = dict(zip(area.dims, factor, strict=True))
        kernel = downscale(code_ds, factors, data_vars=name, check="skip")[name]
        reference = truth[name].drop_vars(truth[name].coords)
        fields = [field.drop_vars(field.coords).astype("f8") for field in (decoded[name], kernel)]
        squares = [(field - reference) ** 2 for field in fields]
        weight = area.drop_vars(area.coords)
        rmse, rmse_kernel = (float(square.weighted(weight).mean()) ** 0.5 for square in squares)
        indices = [
            _checkerboard_index(field.transpose(..., *area.dims).data, factor) for field in (decoded[name], reference)
        ]
        results[name] = {
            "rmse": rmse, "rmse_kernel": rmse_kernel, "largest": float(squares[0].max()) ** 0.5,
            "checkerboard_index_db": indices[0], "checkerboard_index_db_truth": indices[1],
        }  # fmt: skip
    return results


def _checkerboard_index(maps: Any, factor: tuple[int, int]) -> float:
    try:
        return float(checkerboard(maps, factor).to_dict()["checkerboard_index_db"])
    except ShapeError:
        return float("nan")


def compression_lines(
    source: str, output: str | Path, model: Any, facts: dict[str, Any], with_errors: bool
) -> list[str]:
    """Return the results as lines of text; ``with_errors`` includes the errors of the decoded fields."""
    lines = [f"cell error of the means as written {facts['cell_error']:.1e}"]
    if with_errors:
        fine = open_input(source)
        for name, errors in compression_errors(fine, open_input(str(output)), model).items():
            units = fine[name].attrs.get("units", "1")
            lines.append(
                f"{name}: RMSE {errors['rmse']:.4g} {units} (means alone, by the kernel {errors['rmse_kernel']:.4g}), "
                f"largest error {errors['largest']:.4g}; checkerboard index {db(errors['checkerboard_index_db'])} dB "
                f"(before {db(errors['checkerboard_index_db_truth'])})"
            )
    size = facts["bytes_of_file"] / 1e6
    return [*lines, f"wrote {output}: {size:.3g} MB, {facts['ratio']:.1f} times less than the fields in memory",
            f"decode with: downscale apply {output} FINE.nc --method {model}"]  # fmt: skip
