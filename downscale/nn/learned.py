"""Learned models: the Sobolev kernel, a network that adds detail, and a conservation constraint.

    y = constrain(U x + (I - S A) g)

with U the Sobolev operator, g the network, A the mean over coarse cells and S the spreading of a cell's value over its
fine cells. The network starts at zero, so that an untrained model equals the training-free method.
"""

from __future__ import annotations

import copy
import math
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from downscale.errors import InputError, OptionError, ShapeError, listing
from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import constraint, infeasible
from downscale.fields.fill import fill_missing
from downscale.fields.noise import Draws, Noise, Window, lifetime_of
from downscale.grid.latlon import RectilinearGrid
from downscale.nn.channels import LOCAL_RADIUS, WIDE_RADIUS, Channels, Codec, channels, detail_of
from downscale.nn.conv_transpose import freeze_kernels
from downscale.nn.edges import Frame
from downscale.nn.networks import ModuleNetwork, Network, build
from downscale.nn.reach import Radii, axis_halo, open_halo
from downscale.nn.separable import BothParts, Grid, Separable, counts_of, operator
from downscale.nn.spec import Bounds, Event, ModelSpec
from downscale.typing import Place

if TYPE_CHECKING:
    from downscale.nn.separable import BothParts, Grid

# Least kernel value before its logarithm, as a fraction of the cell's mean.
SOFTMAX_FLOOR = 1e-3
# Limit of the kernel's logit of an event, so that the network can outweigh it.
MOST_LOGIT = 4.0


@dataclass(frozen=True)
class NetworkInputs:
    """Input fields of the network with missing values filled; shapes as in ``Learned.forward``."""

    x: Tensor
    proposal: Tensor
    predictors: Tensor | None = None


class Learned(nn.Module):
    """Network on top of the Sobolev kernel, with cell conservation by construction.

    Parameters
    ----------
    spec : ModelSpec
        All of the model except its weights.
    network : Module, optional
        A network instead of that of the specification; see :class:`~downscale.nn.networks.ModuleNetwork`.

    Attributes
    ----------
    network : Network
        The network, whose inputs are normalised channels.

    Raises
    ------
    OptionError
        If the network or one of its options is unknown.

    Notes
    -----
    Cell means, and with them the total, are conserved to rounding of the data type of ``x`` for any weights, masks and
    areas, except with the constraint "none". The constraints "bounded", "multiplicative" and "softmax" also satisfy the
    bounds.

    Examples
    --------
    >>> import numpy as np
    >>> from downscale.nn.spec import Variable
    >>> model = Learned(ModelSpec("residual", (2, 2), (Variable("tas", "K"),)))
    >>> cells = Aggregation(np.full(8, 0.5), np.full(8, 0.5), 2, 2)
    >>> x = torch.rand(1, 1, 4, 4)
    >>> torch.allclose(cells.mean(model(x, cells.broadcast_to_fine(x), cells)), x)
    True
    """

    def __init__(self, spec: ModelSpec, network: nn.Module | None = None) -> None:
        super().__init__()
        self.spec = spec
        if network is None:
            network = build(spec)
        elif not isinstance(network, Network):
            network = ModuleNetwork(network, (spec.coarse_channels, spec.fine_channels), spec.factor)
        self.network = network
        if spec.event is not None:
            # Least probability for the flag, chosen on the validation split.
            self.register_buffer("decision", torch.tensor(0.5))
            # Slope and shift of the logits that calibrate probabilities on the validation split.
            self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        if spec.code is not None:
            self.codec = Codec(spec)

    @property
    def factor(self) -> tuple[int, int]:
        """Refinement of rows and columns."""
        return self.spec.factor

    @property
    def laws(self) -> frozenset[str]:
        """Kinds of conservation satisfied by construction."""
        return self.spec.laws

    @property
    def multiple_of(self) -> int:
        """Coarse cells per cell of the network's coarsest level; fields of any size are valid."""
        return self.network.multiple_of

    @property
    def halo(self) -> tuple[int, int] | None:
        """Distance of coarse rows and columns that affect a fine cell on any grid; None for the whole field."""
        if self.network.is_global or self.network.spans is None:
            return None
        rows, columns = (open_halo(spans, self.radii, self.spec.taps) for spans in self.network.spans)
        return rows, columns

    @property
    def radii(self) -> Radii:
        """Cells on each side that channels and the unit of the detail depend on."""
        output_transforms = {variable.transform for variable in self.spec.outputs}
        transforms = output_transforms | {variable.transform for variable in self.spec.predictors}
        return Radii(
            coarse=(LOCAL_RADIUS + WIDE_RADIUS) * ("local" in transforms),
            fine=LOCAL_RADIUS * ("local" in output_transforms),
            unit=LOCAL_RADIUS * bool(output_transforms - {"linear"}),
        )

    def forward(
        self,
        x: Tensor,
        proposal: Tensor,
        cells: Aggregation,
        predictors: Tensor | None = None,
        statics: Tensor | None = None,
        time_features: Tensor | None = None,
        constrain: bool = True,
        *,
        corner: tuple[int, int] = (0, 0),
        closed: bool = False,
        noise: tuple[Tensor, Tensor] | None = None,
        network_inputs: NetworkInputs | None = None,
    ) -> Tensor:
        """Return fine fields, shape (B, V, ny * fy, nx * fx), in the units and the data type of ``x``.

        Parameters
        ----------
        x : Tensor, shape (B, V, ny, nx)
            Coarse values of the outputs; NaN where missing.
        proposal : Tensor, shape (B, V, ny * fy, nx * fx)
            Kernel result of these values; NaN where missing or masked.
        cells : Aggregation
            The operator A of exactly these cells.
        predictors : Tensor, shape (B, P, ny, nx)
            Further coarse variables; NaN where missing.
        statics : Tensor, shape (S, ny * fy, nx * fx) or (B, S, ...)
            Fine fields in the order of ``spec.static_channels``, in physical units.
        time_features : Tensor, shape (B, E) or (B, E, ny, nx)
            Sines and cosines in the order of ``spec.time_channels``.
        constrain : bool
            False leaves the constraint out, but the detail still has zero cell means. An event then gives logits
            instead of probabilities.
        corner : (int, int)
            Row and column of the first cell in the world, to which the levels of the network are aligned.
        closed : bool
            Whether the columns close a circle.
        noise : (Tensor, Tensor), shapes (B, n, ny, nx) and (B, m, ny * fy, nx * fx)
            Independent numbers of mean zero and variance one, ``spec.noise`` channels, for ensemble models.
        network_inputs : NetworkInputs, optional
            The same fields with missing values filled, for the network alone; by default it gets the unfilled fields.

        Raises
        ------
        ShapeError
            If a field is missing, or its channels or sizes are not those of the model.
        """
        fields = NetworkInputs(x, proposal, predictors) if network_inputs is None else network_inputs
        inputs = channels(
            self.spec, fields.x, fields.proposal, cells, fields.predictors, statics, time_features, closed, noise
        )
        result = self.detail(inputs, corner, closed).to(x)
        # One check, on an input that carries no gradients.
        mask = torch.isfinite(proposal)
        valid = None if bool(mask.all()) else mask
        if self.spec.event is not None:
            logit = _logit(proposal, _sum_units(result, self.spec.units), self.spec.event)
            slope, shift = self.calibration  # type: ignore[misc]
            return torch.sigmoid(slope * logit + shift) if constrain else logit
        if self.spec.constraint == "softmax":
            z = _exponent(x, proposal, _sum_units(result, self.spec.units), cells)
        else:
            detail = _sum_units(result * cells.broadcast_to_fine(inputs.units), self.spec.units)
            if self.spec.code is not None and predictors is not None:
                first = [sum(self.spec.units[:i]) for i in range(len(self.spec.outputs))]
                waves = self.codec.decode(predictors[:, -self.spec.code.channels :].to(self.codec.synthesis))
                detail = detail + waves.to(x) * cells.broadcast_to_fine(inputs.units[:, first])
            z = _add_detail(proposal, detail, cells, valid, self.spec)
        if not constrain or self.spec.constraint == "none":
            return torch.exp(z) if self.spec.constraint == "softmax" else z
        return self._constrain(z, x, cells, valid)

    def encode(self, target: Tensor, x: Tensor, proposal: Tensor, cells: Aggregation, closed: bool = False) -> Tensor:
        """Return the code of fine fields from a compressor, shape (B, C, ny, nx); NaN where coarse values are missing.

        Parameters
        ----------
        target : Tensor, shape (B, V, ny * fy, nx * fx)
            The fine fields; NaN where missing.
        x, proposal, cells, closed
            As in :meth:`forward`: their means, the kernel result of these, and the operator A.
        """
        codes: Tensor = self.codec(*detail_of(self.spec, target, x, proposal, cells, closed))
        return torch.where(torch.isfinite(x).all(dim=1, keepdim=True), codes, torch.nan)

    def detail(self, inputs: Channels, corner: tuple[int, int] = (0, 0), closed: bool = False) -> Tensor:
        """Return the network's output for the channels, (B, sum(spec.units), ny * fy, nx * fx), in its data type."""
        network, factor = self.network, self.factor
        weight = next(network.parameters())
        shape = (inputs.coarse.shape[-2], inputs.coarse.shape[-1])
        wrap = network.reach(1) if closed else 0
        frame = Frame.of(shape, network.multiple_of, corner, closed, wrap)
        coarse = frame.pad(inputs.coarse.to(weight.dtype))
        fine = frame.pad(inputs.fine.to(weight.dtype), factor)
        core = frame.core((coarse.shape[-2], coarse.shape[-1]))
        detail = frame.crop(network(coarse, fine, core), factor)
        # Not in training, where the network would compensate for it.
        return detail if self.training or self.spec.kept == 1 else detail * self.spec.kept

    def bind(self, grid: Grid, parts: BothParts, variable: int = 0) -> BoundModel:
        """Return one output of the model on a grid, with the Sobolev kernel of that grid.

        Parameters
        ----------
        grid : RectilinearGrid or CurvilinearGrid
            The whole coarse grid.
        parts : (Subcells, Subcells)
            The parts of its rows and columns.
        variable : int
            Index of the output.

        Raises
        ------
        ShapeError
            If the numbers of parts differ from the model's factor.
        """
        return bind(self, grid, parts, variable)

    def _constrain(self, z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None) -> Tensor:
        """Return the constrained fields, constrained one by one if bounds differ."""
        bounds = [variable.bounds for variable in self.spec.outputs]
        if self.spec.constraint != "bounded" or len(set(bounds)) == 1:
            return _impose(self.spec.constraint, z, x, cells, mask, bounds[0])
        fields = [
            _impose("bounded", z[:, i : i + 1], x[:, i : i + 1], cells, _select_output(mask, i), bounds[i])
            for i in range(len(bounds))
        ]
        return torch.cat(fields, dim=1)


def _select_output(mask: Tensor | None, index: int) -> Tensor | None:
    return None if mask is None else mask[:, index : index + 1]


def _sum_units(numbers: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Return sums of the network's numbers for each output, (B, sum(counts), ...) -> (B, V, ...)."""
    if set(counts) == {1}:
        return numbers
    return torch.cat([part.sum(dim=1, keepdim=True) for part in numbers.split(counts, dim=1)], dim=1)


def _add_detail(proposal: Tensor, detail: Tensor, cells: Aggregation, mask: Tensor | None, spec: ModelSpec) -> Tensor:
    """Return ``U x + (I - S A) g``, NaN where the kernel result is missing."""
    if spec.constraint != "none":
        detail = detail - cells.broadcast_to_fine(cells.apply_mask(mask).mean(detail))
    if mask is None:
        return proposal + detail
    # Missing cells carry no gradient.
    return torch.where(mask, torch.where(mask, proposal, torch.zeros_like(proposal)) + detail, proposal)


def _logit(proposal: Tensor, result: Tensor, event: Event) -> Tensor:
    """Return the kernel's scaled distance from the threshold plus the network's logit; NaN where the kernel is."""
    finite = torch.isfinite(proposal)
    values = torch.where(finite, proposal, torch.full_like(proposal, event.threshold))
    base = (event.sign * (values - event.threshold) / event.width).clamp(-MOST_LOGIT, MOST_LOGIT)
    return torch.where(finite, base + result, torch.full_like(result, torch.nan))


def _exponent(x: Tensor, proposal: Tensor, result: Tensor, cells: Aggregation) -> Tensor:
    """Return ``log U x + g``, in which the network gives ratios; uniform in dry cells."""
    floor = cells.broadcast_to_fine(SOFTMAX_FLOOR * x)
    base = torch.maximum(proposal, floor)
    log = torch.log(torch.where(base > 0, base, torch.ones_like(base)))
    return torch.where(torch.isfinite(proposal), log + result, proposal)


def _impose(name: str, z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None, bounds: Bounds) -> Tensor:
    """Return constrained fields; a cell whose coarse value violates the bounds is filled with that value."""
    if name == "additive" or (name == "bounded" and bounds == (None, None)):
        return constraint("additive")(z, x, cells.apply_mask(mask))
    low = -torch.inf if bounds[0] is None else bounds[0]
    high = torch.inf if bounds[1] is None else bounds[1]
    is_infeasible = infeasible(x, low, high)
    clamped = torch.where(is_infeasible, x.clamp(low, high), x)
    z = z.clamp_min(0) if name == "multiplicative" else z
    constrained = constraint(name)(z, clamped, cells.apply_mask(mask), bounds)
    uniform = torch.where(torch.isnan(z), z, cells.broadcast_to_fine(x))
    return torch.where(cells.broadcast_to_fine(is_infeasible), uniform, constrained)


# CPU convolutions copy their inputs and outputs into another memory order (measured).
REORDERED = 2


class LiveBytes(TorchFunctionMode):
    """Count of the bytes of all live tensors, and its maximum (``peak``)."""

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count its results; views need no memory of their own."""
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def release(_: Any) -> None:
            self.current -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, release)
        self.current += size
        self.peak = max(self.peak, self.current)


def feature_bytes(network: Network, maps: int, shape: tuple[int, int]) -> int:
    """Return the peak bytes of a network, without its weights, for ``maps`` maps of ``shape`` coarse cells with halo.

    Examples
    --------
    >>> from downscale.nn.networks import ResidualNetwork
    >>> small, wide = (ResidualNetwork(2, 1, 1, (2, 2), width=w, depth=1) for w in (8, 16))
    >>> feature_bytes(small, 1, (20, 20)) < feature_bytes(wide, 1, (20, 20))
    True
    """
    meta = copy.deepcopy(network)._apply(lambda weight: torch.empty_like(weight, device="meta"))
    # Alignment of the levels to the world may need one more cell of the coarsest level.
    step = network.multiple_of
    rows, columns = (n if step == 1 else (-(-n // step) + 1) * step for n in shape)
    dtype = next(network.parameters()).dtype
    with torch.no_grad(), LiveBytes() as live:
        coarse = torch.empty(maps, network.channels[0], rows, columns, dtype=dtype, device="meta")
        fine_shape = rows * network.factor[0], columns * network.factor[1]
        fine = torch.empty(maps, network.channels[1], *fine_shape, dtype=dtype, device="meta")
        meta(coarse, fine, (slice(0, rows), slice(0, columns)))
    return REORDERED * live.peak


# Fine values per batch, on a CPU and on other devices: features need some hundred times the bytes.
MOST_VALUES, MOST_DEVICE_VALUES = 500_000, 8_000_000


class BoundModel:
    """One output of a learned model on a grid.

    Attributes
    ----------
    spec : ModelSpec
        The model.
    variable : int
        Index of the output.
    channels : int
        Number of coarse input fields, ``spec.input_channels``: outputs, predictors, times.
    factor : (int, int)
        Refinement of rows and columns.
    halo : (int, int) or None
        Distance of coarse cells that affect a fine cell, tight on this grid.
    laws : frozenset of str
        Kinds of conservation satisfied by construction.
    """

    multiple_of = 1

    def __init__(self, model: Learned, kernel: Separable, cells: Aggregation, variable: int) -> None:
        # The copy contains the measured reach.
        model.network.is_global  # noqa: B018
        self.model, self.kernel, self.cells, self.variable = freeze_kernels(model), kernel, cells, variable
        self.spec: ModelSpec = model.spec
        self.factor, self.laws = self.spec.factor, self.spec.laws
        self.channels = len(self.spec.input_channels) + self.spec.stochastic
        self.halo = self._halo()
        self.scales: tuple[tuple[float, float], ...] = ()
        self._lock = threading.Lock()
        self._replicas: dict[torch.device, Learned] = {}

    def with_scales(self, scales: tuple[tuple[float, float], ...]) -> BoundModel:
        """Return the same model for fields in other units.

        ``scales`` are the factor and offset from the units of each output and predictor to those of the model.
        """
        if all(scale == (1.0, 0.0) for scale in scales):
            return self
        bound = copy.copy(self)
        bound.scales, bound._lock = scales, threading.Lock()
        return bound

    def __repr__(self) -> str:
        return f"{self.spec.network} network for {self.spec.outputs[self.variable].name}, factor {self.factor}"

    def __getstate__(self) -> dict[str, Any]:
        # Copies on devices are not pickled.
        return {**{k: v for k, v in self.__dict__.items() if k != "_lock"}, "_replicas": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __call__(self, coarse: Tensor, place: Place) -> Tensor:
        """Return the fine field of one output, (N, ny * fy, nx * fx).

        Parameters
        ----------
        coarse : Tensor, shape (N, channels, ny, nx), or (N, ny, nx) for one channel
            Coarse fields in the order of ``spec.input_channels``; NaN where missing.
        place : Place
            Position of the fields, with the model's statics by name, and "mask" if fine cells are left out.

        Raises
        ------
        ShapeError
            If the number of channels is not that of the model.
        InputError
            If a static is missing.
        """
        fields = self._require_channels(coarse)
        if self.scales:
            # Double precision, so that conversion of units does not change a mean.
            fields = fields.to(torch.float64, copy=True)
            for i, (factor, offset) in enumerate(self.scales):
                fields[:, i] = fields[:, i] * factor + offset
        statics = self._statics(place, fields)
        model = self._on_device(fields)
        cells = self._cells(place, fields)
        limit = MOST_VALUES if fields.device.type == "cpu" else MOST_DEVICE_VALUES
        maps = max(limit // max(cells.fine_shape[0] * cells.fine_shape[1], 1), 1)
        with torch.no_grad():
            pieces = [self._refine(model, part, place, cells, statics) for part in fields.split(maps)]
        fine = torch.cat(pieces)
        if self.scales and self.spec.event is None:
            factor, offset = self.scales[self.variable]
            fine = (fine - offset) / factor
        return fine.to(coarse)

    def working_bytes(self, maps: int, shape: tuple[int, int]) -> int:
        """Return the bytes of features that a CPU needs for calls of ``maps`` maps with ``shape`` coarse cells."""
        values = max(shape[0] * self.factor[0] * shape[1] * self.factor[1], 1)
        return feature_bytes(self.model.network, min(maps, max(MOST_VALUES // values, 1)), shape)

    def _refine(
        self, model: Learned, fields: Tensor, place: Place, cells: Aggregation, statics: Tensor | None
    ) -> Tensor:
        fields, noise = self._noise(fields, place)
        output_count, predictor_count = len(self.spec.outputs), len(self.spec.predictors)
        x, predictors, time_features = fields.tensor_split([output_count, output_count + predictor_count], dim=1)
        closed = bool(self.kernel.grid.x.periodic) and fields.shape[-1] == self.kernel.grid.shape[1]
        proposal = self.kernel(x, place)
        network_inputs = self._fill_inputs(x, predictors, proposal, place, closed)
        if "mask" in place.statics:
            proposal = proposal.masked_fill(place.statics["mask"].to(x) < 0.5, torch.nan)
        fine = model(
            x, proposal, cells, predictors, statics, time_features, corner=(place.row, place.column), closed=closed,
            noise=noise, network_inputs=network_inputs,
        )  # fmt: skip
        return fine[:, self.variable]

    def _fill_inputs(
        self, x: Tensor, predictors: Tensor, proposal: Tensor, place: Place, closed: bool
    ) -> NetworkInputs:
        """Return the inputs of the network, with missing values filled from neighbours.

        The network was trained on complete patches, so an edge of missing cells or a coast would act as a feature.
        """
        fields, predictor_count = torch.cat([x, predictors], dim=1), predictors.shape[1]
        missing = ~torch.isfinite(fields)
        if not bool(missing.any()):
            return NetworkInputs(x, proposal, predictors)
        fields = torch.where(missing, torch.nan, fields)
        fields = fill_missing(fields, missing, self.kernel.reach, closed, default=torch.nan)
        filled, predictors = fields.tensor_split([fields.shape[1] - predictor_count], dim=1)
        return NetworkInputs(filled, self.kernel(filled, place), predictors)

    def _noise(self, fields: Tensor, place: Place) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the coarse fields, and the noise of the model, if any."""
        return fields, None

    def _require_channels(self, coarse: Tensor) -> Tensor:
        if coarse.ndim == 3 and self.channels == 1:
            return coarse.unsqueeze(1)
        if coarse.ndim != 4 or coarse.shape[1] != self.channels:
            raise ShapeError(
                f"expected {self.channels} coarse fields ({', '.join(self.spec.input_channels)}) of shape "
                f"(N, {self.channels}, rows, columns), received {tuple(coarse.shape)}"
            )
        return coarse

    def _statics(self, place: Place, fields: Tensor) -> Tensor | None:
        missing = [name for name in self.spec.static_channels if name not in place.statics]
        if missing:
            raise InputError(
                f"expected the fine fields {listing(self.spec.static_channels)} for this model, received none of the "
                f"name {missing[0]!r}; give orog=, sftlf= or climatology= on the fine grid"
            )
        statics = [torch.as_tensor(place.statics[name]).to(fields) for name in self.spec.static_channels]
        return torch.stack(statics) if statics else None

    def _cells(self, place: Place, fields: Tensor) -> Aggregation:
        rows = np.arange(place.row, place.row + fields.shape[-2])
        columns = np.arange(place.column, place.column + fields.shape[-1]) % self.kernel.grid.shape[1]
        return self.cells.window(rows, columns)

    def _on_device(self, fields: Tensor) -> Learned:
        """Return the model on the device of the field; each device gets one copy on first use."""
        if next(self.model.parameters()).device == fields.device:
            return self.model
        with self._lock:
            if fields.device not in self._replicas:
                replica = copy.deepcopy(self.model)
                replica._apply(lambda weight: weight.to(device=fields.device))
                self._replicas[fields.device] = replica
            return self._replicas[fields.device]

    def _halo(self) -> tuple[int, int] | None:
        network, kernel, grid = self.model.network, self.kernel, self.kernel.grid
        if network.is_global or network.spans is None:
            return None
        axes = zip(network.spans, kernel.axes, self.factor, kernel.reach, (grid.y, grid.x), strict=True)
        y, x = (
            axis_halo(spans, self.model.radii, axis.start.reshape(-1, count), axis.taps, fill, bool(cells.periodic))
            for spans, axis, count, fill, cells in axes
        )
        return y, x


class Ensemble(BoundModel):
    """One output of an ensemble model; the last input field is the number of the map.

    The noise of a cell depends only on seed, member, variable, position in the domain and time.
    """

    draws = Draws()

    def with_noise(self, draws: Draws) -> Ensemble:
        """Return the same model for other members."""
        ensemble = copy.copy(self)
        ensemble.draws = draws
        return ensemble

    def _noise(self, fields: Tensor, place: Place) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        noise, numbers = Noise(self.draws), [int(n) for n in fields[:, -1, 0, 0].round().tolist()]
        width = math.sqrt(float(np.mean(self.kernel.grid.cell_area)))
        levels = []
        for level, factors in enumerate(((1, 1), self.factor)):
            windows = self._windows(fields, place, factors)
            lifetime = lifetime_of(width / max(factors))
            octaves = [(level + 1) * 1000 + i for i in range(self.spec.noise[level])]
            values = [[noise.at(number, octave, lifetime, *windows) for octave in octaves] for number in numbers]
            shape = (len(numbers), len(octaves), *(window.last - window.first for window in windows))
            levels.append(fields.new_tensor(np.asarray(values, np.float64).reshape(shape)))
        return fields[:, :-1], (levels[0], levels[1])

    def _windows(self, fields: Tensor, place: Place, factors: tuple[int, int]) -> tuple[Window, Window]:
        (fy, fx), grid = factors, self.kernel.grid
        period = grid.shape[1] * fx if grid.x.periodic else None
        rows = Window(place.row * fy, (place.row + fields.shape[-2]) * fy)
        return rows, Window(place.column * fx, (place.column + fields.shape[-1]) * fx, period)


def bind(model: Learned, grid: Grid, parts: BothParts, variable: int = 0) -> BoundModel:
    """Return one output of a model on a grid; see :meth:`~downscale.nn.learned.Learned.bind`."""
    spec = model.spec
    if counts_of(parts) != spec.factor:
        raise ShapeError(
            f"expected the factor of the model, {spec.factor[0]} x {spec.factor[1]}, received "
            f"{parts[0].count} x {parts[1].count}; use that factor, or a model of this one"
        )
    if not 0 <= variable < len(spec.outputs):
        raise OptionError(f"expected one of {len(spec.outputs)} outputs of the model, received number {variable}")
    bound_class = Ensemble if spec.stochastic else BoundModel
    kernel = operator("sobolev", grid, parts, spec.taps, spec.order)
    return bound_class(model, kernel, cells_of(grid, parts), variable)


def cells_of(grid: Grid, parts: BothParts) -> Aggregation:
    """Return the operator A of a whole grid and its parts, with the areas of the grid."""
    if isinstance(grid, RectilinearGrid):
        if grid.separable:
            return Aggregation(parts[0].area_fraction, parts[1].area_fraction, *counts_of(parts))
        return Aggregation.between(grid, grid.with_axes(parts[0].axis, parts[1].axis))
    return Aggregation.between(grid, grid.refine(*counts_of(parts)))
