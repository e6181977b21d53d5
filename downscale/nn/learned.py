"""Learned models: the Sobolev kernel, a network that adds detail, and a conservation constraint.

    y = constrain(U x + (I - S A) g)

with U the Sobolev operator, g the network, A the mean over coarse cells and S the spreading of a cell's value over its
fine cells. The network starts at zero, so that an untrained model equals the training-free method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import constraint, infeasible
from downscale.nn.channels import LOCAL_RADIUS, WIDE_RADIUS, Channels, channels
from downscale.nn.encoder import Codec, detail_of
from downscale.nn.framing import Frame
from downscale.nn.halo import Radii, learned_halo
from downscale.nn.networks import build
from downscale.nn.spec import Bounds, Event, ModelSpec

if TYPE_CHECKING:
    from downscale.nn.bound import Bound
    from downscale.nn.separable import BothParts, Grid

# Least kernel value before its logarithm, as a fraction of the cell's mean.
SOFTMAX_FLOOR = 1e-3
# Limit of the kernel's logit of an event, so that the network can outweigh it.
MOST_LOGIT = 4.0


@dataclass(frozen=True)
class Seen:
    """Input fields of the network with missing values filled, shapes as in ``forward``."""

    x: Tensor
    proposal: Tensor
    predictors: Tensor | None = None


class Learned(nn.Module):
    """Network on top of the Sobolev kernel, with cell conservation by construction.

    Parameters
    ----------
    spec : ModelSpec
        All of the model except its weights.

    Attributes
    ----------
    network : Network
        Sees normalised channels only.

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

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.network = build(spec)
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
        return learned_halo(self.network, self.radii, self.spec.taps)

    @property
    def radii(self) -> Radii:
        """Cells on each side that channels and the unit of the detail depend on."""
        kinds = {each.transform for each in self.spec.outputs}
        every = kinds | {each.transform for each in self.spec.predictors}
        return Radii(
            coarse=(LOCAL_RADIUS + WIDE_RADIUS) * ("local" in every),
            fine=LOCAL_RADIUS * ("local" in kinds),
            unit=LOCAL_RADIUS * bool(kinds - {"linear"}),
        )

    def forward(
        self,
        x: Tensor,
        proposal: Tensor,
        cells: Aggregation,
        predictors: Tensor | None = None,
        statics: Tensor | None = None,
        clock: Tensor | None = None,
        constrain: bool = True,
        *,
        corner: tuple[int, int] = (0, 0),
        closed: bool = False,
        noise: tuple[Tensor, Tensor] | None = None,
        seen: Seen | None = None,
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
        clock : Tensor, shape (B, E) or (B, E, ny, nx)
            Sines and cosines in the order of ``spec.clock_channels``.
        constrain : bool
            False leaves the constraint out, but the detail still has zero cell means. An event then gives logits
            instead of probabilities.
        corner : (int, int)
            Row and column of the first cell in the world, to which the levels of the network are aligned.
        closed : bool
            Whether the columns close a circle.
        noise : (Tensor, Tensor), shapes (B, n, ny, nx) and (B, m, ny * fy, nx * fx)
            Independent numbers of mean zero and variance one, ``spec.noise`` channels, for ensemble models.
        seen : Seen, optional
            The same fields with missing values filled, for the network alone; by default it gets the unfilled fields.

        Raises
        ------
        ShapeError
            If a field is missing, or its channels or sizes are not those of the model.
        """
        look = Seen(x, proposal, predictors) if seen is None else seen
        given = channels(self.spec, look.x, look.proposal, cells, look.predictors, statics, clock, closed, noise)
        result = self.detail(given, corner, closed).to(x)
        # One check, on an input that carries no gradients.
        mask = torch.isfinite(proposal)
        valid = None if bool(mask.all()) else mask
        if self.spec.event is not None:
            logit = _logit(proposal, _summed(result, self.spec.units), self.spec.event)
            slope, shift = self.calibration  # type: ignore[misc]
            return torch.sigmoid(slope * logit + shift) if constrain else logit
        if self.spec.constraint == "softmax":
            z = _exponent(x, proposal, _summed(result, self.spec.units), cells)
        else:
            detail = _summed(result * cells.broadcast_to_fine(given.units), self.spec.units)
            if self.spec.code is not None and predictors is not None:
                first = [sum(self.spec.units[:i]) for i in range(len(self.spec.outputs))]
                waves = self.codec.unfold(predictors[:, -self.spec.code.channels :].to(self.codec.synthesis))
                detail = detail + waves.to(x) * cells.broadcast_to_fine(given.units[:, first])
            z = _proposed(proposal, detail, cells, valid, self.spec)
        if not constrain or self.spec.constraint == "none":
            return torch.exp(z) if self.spec.constraint == "softmax" else z
        return self._constrained(z, x, cells, valid)

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

    def detail(self, given: Channels, corner: tuple[int, int] = (0, 0), closed: bool = False) -> Tensor:
        """Return the network's output for the channels, (B, sum(spec.units), ny * fy, nx * fx), in its data type."""
        network, factor = self.network, self.factor
        weight = next(network.parameters())
        shape = (given.coarse.shape[-2], given.coarse.shape[-1])
        wrap = network.reach(1) if closed else 0
        frame = Frame.of(shape, network.multiple_of, corner, closed, wrap)
        coarse = frame.pad(given.coarse.to(weight.dtype))
        fine = frame.pad(given.fine.to(weight.dtype), factor)
        core = frame.core((coarse.shape[-2], coarse.shape[-1]))
        made = frame.crop(network(coarse, fine, core), factor)
        # Not in training, where the network would compensate for it.
        return made if self.training or self.spec.kept == 1 else made * self.spec.kept

    def bind(self, grid: Grid, parts: BothParts, variable: int = 0) -> Bound:
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
        from downscale.nn.bound import bind

        return bind(self, grid, parts, variable)

    def _constrained(self, z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None) -> Tensor:
        """Return the constrained fields, constrained one by one if bounds differ."""
        bounds = [variable.bounds for variable in self.spec.outputs]
        if self.spec.constraint != "bounded" or len(set(bounds)) == 1:
            return _imposed(self.spec.constraint, z, x, cells, mask, bounds[0])
        each = [
            _imposed("bounded", z[:, i : i + 1], x[:, i : i + 1], cells, _one(mask, i), bounds[i])
            for i in range(len(bounds))
        ]
        return torch.cat(each, dim=1)


def _one(mask: Tensor | None, index: int) -> Tensor | None:
    return None if mask is None else mask[:, index : index + 1]


def _summed(numbers: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Return sums of the network's numbers for each output, (B, sum(counts), ...) -> (B, V, ...)."""
    if set(counts) == {1}:
        return numbers
    return torch.cat([part.sum(dim=1, keepdim=True) for part in numbers.split(counts, dim=1)], dim=1)


def _proposed(proposal: Tensor, detail: Tensor, cells: Aggregation, mask: Tensor | None, spec: ModelSpec) -> Tensor:
    """Return ``U x + (I - S A) g``, NaN where the kernel result is missing."""
    if spec.constraint != "none":
        detail = detail - cells.broadcast_to_fine(cells.masked(mask).mean(detail))
    if mask is None:
        return proposal + detail
    # Missing cells carry no gradient.
    return torch.where(mask, torch.where(mask, proposal, torch.zeros_like(proposal)) + detail, proposal)


def _logit(proposal: Tensor, result: Tensor, event: Event) -> Tensor:
    """Return the kernel's scaled distance from the threshold plus the network's logit; NaN where the kernel is."""
    there = torch.isfinite(proposal)
    known = torch.where(there, proposal, torch.full_like(proposal, event.threshold))
    base = (event.sign * (known - event.threshold) / event.width).clamp(-MOST_LOGIT, MOST_LOGIT)
    return torch.where(there, base + result, torch.full_like(result, torch.nan))


def _exponent(x: Tensor, proposal: Tensor, result: Tensor, cells: Aggregation) -> Tensor:
    """Return ``log U x + g``, in which the network gives ratios; uniform in dry cells."""
    floor = cells.broadcast_to_fine(SOFTMAX_FLOOR * x)
    base = torch.maximum(proposal, floor)
    log = torch.log(torch.where(base > 0, base, torch.ones_like(base)))
    return torch.where(torch.isfinite(proposal), log + result, proposal)


def _imposed(
    name: str, z: Tensor, x: Tensor, cells: Aggregation, mask: Tensor | None, bounds: Bounds
) -> Tensor:
    """Return constrained fields; a cell whose value violates the bounds keeps it, spread evenly."""
    if name == "additive" or (name == "bounded" and bounds == (None, None)):
        return constraint("additive")(z, x, cells.masked(mask))
    low = -torch.inf if bounds[0] is None else bounds[0]
    high = torch.inf if bounds[1] is None else bounds[1]
    bad = infeasible(x, low, high)
    inside = torch.where(bad, x.clamp(low, high), x)
    inner = constraint(name)(z.clamp_min(0) if name == "multiplicative" else z, inside, cells.masked(mask), bounds)
    return torch.where(cells.broadcast_to_fine(bad), torch.where(torch.isnan(z), z, cells.broadcast_to_fine(x)), inner)
