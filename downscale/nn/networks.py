"""Networks of learned models: detail from normalised coarse and fine channels, with measured reach."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from downscale.errors import DownscaleError, OptionError, listing
from downscale.nn.edges import Frame
from downscale.nn.layers import (
    Context,
    ResidualBlock,
    Shuffle,
    Unshuffle,
    coarsening_layer,
    convolution,
    zero_init,
)
from downscale.nn.layers import activation as activate
from downscale.nn.layers import attention as attend
from downscale.nn.reach import Spans, measure_spans
from downscale.nn.spec import ModelSpec
from downscale.nn.upsampling import Upsampling

Core = tuple[slice, slice]


class Network(nn.Module):
    """Base of the networks: detail from normalised coarse and fine channels.

    Parameters
    ----------
    coarse_channels, fine_channels, outputs : int
        Channels of the two inputs and of the output.
    factor : (int, int)
        Refinement of rows and columns.
    upsampling, steps : str
        Kind of the stages, and whether each prime factor has its own; see
        :class:`~downscale.nn.upsampling.Upsampling`.
    activation : str
        Name of the activation.
    pooling : {"strided", "blur"}
        Method of coarsening by two; "blur" filters first to avoid aliasing.
    **options
        Options of each network.

    Attributes
    ----------
    multiple_of : int
        Coarse cells per cell of the coarsest level. Any size is valid: fields are padded with zeros and cropped.
    has_global_layer : bool
        Whether a layer depends on the whole field.
    """

    multiple_of = 1
    has_global_layer = False
    # Options that may be zero, which removes the layer.
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"depth", "levels"})

    def __init__(self, channels: tuple[int, int], factor: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.factor = channels, factor

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return detail (B, outputs, ny * fy, nx * fx) from (B, C_c, ny, nx) and (B, C_f, ny * fy, nx * fx).

        ``core`` holds the coarse cells without padding, for networks that depend on the whole field.
        """
        raise NotImplementedError

    @cached_property
    def spans(self) -> tuple[Spans, Spans] | None:
        """Measured reach of rows and columns, without layers that depend on the whole field; None if it is infinite."""
        return self._measure_spans(self.multiple_of)

    def _measure_spans(self, period: int, width: int = 1) -> tuple[Spans, Spans] | None:
        rows, columns = (
            measure_spans(self, self.channels, self.factor, axis, period, width * self.multiple_of) for axis in (0, 1)
        )
        return None if rows is None or columns is None else (rows, columns)

    @property
    def is_global(self) -> bool:
        """Whether a fine cell depends on the whole field."""
        return self.has_global_layer or self.spans is None

    def reach(self, axis: int) -> int:
        """Return the largest distance in coarse cells along an axis that affects a fine cell, without global layers."""
        return 0 if self.spans is None else int(abs(self.spans[axis]).max())

    @property
    def halo(self) -> int | None:
        """Largest distance of coarse cells whose channels affect a fine cell; None for the whole field."""
        return None if self.is_global else max(self.reach(0), self.reach(1))


class ModuleNetwork(Network):
    """A module of any kind as a network; its reach is measured.

    The module is called with coarse channels (B, C_c, ny, nx) and fine ones (B, C_f, ny * fy, nx * fx), and returns
    detail (B, outputs, ny * fy, nx * fx). It must not replace NaN, nor depend on positions in the field. A module with
    layers below coarse resolution has an attribute ``multiple_of``: the coarse cells per cell of its coarsest level.

    Raises
    ------
    OptionError
        If ``multiple_of`` is needed and not there; raised when the reach is first used.
    """

    def __init__(self, module: nn.Module, channels: tuple[int, int], factor: tuple[int, int]) -> None:
        super().__init__(channels, factor)
        self.module = module
        self.multiple_of = int(getattr(module, "multiple_of", 1))

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return the fine field of the module."""
        return self.module(coarse, fine)

    @cached_property
    def spans(self) -> tuple[Spans, Spans] | None:
        """Measured reach of rows and columns; None if it is infinite."""
        # Two periods, which are equal if this is the period; wide enough for reflecting edges.
        spans, period = self._measure_spans(2 * self.multiple_of, width=8), self.multiple_of
        for axis in spans or ():
            if (axis[:, :period] != axis[:, period:]).any():
                raise OptionError(
                    f"expected a network of the same reach at all multiples of {period} coarse cells, received another "
                    "one; set its attribute multiple_of to the coarse cells per cell of its coarsest level"
                )
        return spans and (spans[0][:, :period], spans[1][:, :period])


def convolution_activation(channels: int, out_channels: int, act: str) -> nn.Sequential:
    """Return a convolution and an activation."""
    return nn.Sequential(convolution(channels, out_channels), activate(act))


def residual_blocks(width: int, depth: int, act: str) -> nn.Sequential:
    """Return residual blocks in sequence."""
    return nn.Sequential(*(ResidualBlock(width, act) for _ in range(depth)))


class ResidualNetwork(Network):
    """Residual trunk, upsampling stages, and convolutions that join features with the fine channels.

    Parameters
    ----------
    width, depth : int
        Channels and residual blocks of the trunk.
    head_kernel : int
        Stencil width of the first convolution along an axis, an odd number.
    block : {"plain", "wide", "separable"}
        Kind of the residual blocks; see :class:`~downscale.nn.layers.ResidualBlock`.
    fine_width, fine_depth : int
        Channels at fine resolution, and convolutions there after the joining one. With zero width the trunk computes
        all phases of the result at coarse resolution: the cheapest network, which ignores ``upsampling``.
    dilations : sequence of int
        Dilations of the blocks, repeated in turn.
    see_fine : bool
        Whether the trunk also uses the fine channels, with their phases as channels.
    context : bool
        Whether the trunk weights its channels by means over the whole field, which gives no finite halo.
    attention : {"none", "windowed", "global"}
        Self-attention of the trunk: none, in a window, or over the whole field, which gives no finite halo either.
    window : int
        Cells of the window along an axis, an odd number.
    """

    may_be_zero: ClassVar[frozenset[str]] = frozenset({"depth", "fine_width", "fine_depth"})

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        outputs: int,
        factor: tuple[int, int],
        *,
        width: int = 64,
        depth: int = 4,
        head_kernel: int = 3,
        block: str = "plain",
        fine_width: int = 32,
        fine_depth: int = 1,
        upsampling: str = "conservative",
        steps: str = "prime",
        activation: str = "silu",
        dilations: Sequence[int] = (1,),
        see_fine: bool = True,
        context: bool = False,
        attention: str = "none",
        window: int = 7,
    ) -> None:
        super().__init__((coarse_channels, fine_channels), factor)
        if not fine_width and not see_fine:
            raise OptionError("expected fine_width above zero without see_fine, received 0: nothing sees fine fields")
        self.has_global_layer = context or attention == "global"
        self.unshuffle = Unshuffle(factor) if see_fine else None
        input_channels = coarse_channels + (fine_channels * factor[0] * factor[1] if see_fine else 0)
        self.head = convolution(input_channels, width, head_kernel)
        blocks = [ResidualBlock(width, activation, dilations[i % len(dilations)], block) for i in range(depth)]
        self.trunk = nn.Sequential(*blocks)
        self.attention = attend(attention, width, window)
        self.context = Context(width, activation) if context else None
        self.up: nn.Module | None = None
        if fine_width:
            self.up = Upsampling(upsampling, width, fine_width, factor, activation, steps)
            self.join = _fine_convolutions(fine_width, fine_channels, fine_depth, activation)
            self.last = nn.Sequential(zero_init(convolution(fine_width, outputs)))
        else:
            self.last = nn.Sequential(zero_init(convolution(width, outputs * factor[0] * factor[1])), Shuffle(factor))

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return the fine field."""
        inputs = coarse if self.unshuffle is None else torch.cat([coarse, self.unshuffle(fine)], dim=1)
        features = self.trunk(self.head(inputs))
        for layer in (self.attention, self.context):
            if layer is not None:
                features = layer(features, core)
        if self.up is None:
            return self.last(features)
        return self.last(self.join(torch.cat([self.up(features), fine], dim=1)))


def _fine_convolutions(width: int, fine_channels: int, depth: int, act: str) -> nn.Sequential:
    """Return convolutions at fine resolution, an activation after each."""
    layers: list[nn.Module] = [convolution(width + fine_channels, width), activate(act)]
    for _ in range(depth):
        layers += [convolution(width, width), activate(act)]
    return nn.Sequential(*layers)


class UNet(Network):
    """Encoder from fine to coarse cells and ``levels`` below them, and a decoder with skip connections.

    Parameters
    ----------
    width : int
        Channels at coarse resolution; doubled at each level below.
    levels : int
        Levels below the coarse cells, each half as many cells along an axis.
    depth : int
        Residual blocks per level, in encoder and decoder.
    fine_width : int
        Channels at fine resolution.

    References
    ----------
    Ronneberger, Fischer and Brox (2015), U-Net: convolutional networks for biomedical image segmentation, MICCAI.
    """

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        outputs: int,
        factor: tuple[int, int],
        *,
        width: int = 32,
        levels: int = 2,
        depth: int = 1,
        fine_width: int = 16,
        upsampling: str = "conservative",
        steps: str = "prime",
        activation: str = "silu",
        pooling: str = "strided",
    ) -> None:
        super().__init__((coarse_channels, fine_channels), factor)
        self.multiple_of = 2**levels
        widths = [width * 2**level for level in range(levels + 1)]
        self.fine_head = convolution_activation(fine_channels, fine_width, activation)
        self.gather = Unshuffle(factor)
        self.head = convolution_activation(coarse_channels + fine_width * factor[0] * factor[1], width, activation)
        self.down = nn.ModuleList(_Down(widths[i], widths[i + 1], depth, activation, pooling) for i in range(levels))
        self.bottom = residual_blocks(widths[-1], depth, activation)
        self.up = nn.ModuleList(_Up(widths[i + 1], widths[i], depth, upsampling, activation) for i in range(levels))
        self.refine = Upsampling(upsampling, width, fine_width, factor, activation, steps)
        self.join = convolution_activation(2 * fine_width, fine_width, activation)
        self.last = zero_init(convolution(fine_width, outputs))

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return the fine field."""
        frame = Frame.of((coarse.shape[-2], coarse.shape[-1]), self.multiple_of)
        skip = self.fine_head(frame.pad(fine, self.factor))
        features = self.head(torch.cat([frame.pad(coarse), self.gather(skip)], dim=1))
        skips = []
        for down in self.down:
            features, level_skip = down(features)
            skips.append(level_skip)
        features = self.bottom(features)
        for i in reversed(range(len(skips))):
            features = self.up[i](features, skips[i])
        features_with_skip = self.join(torch.cat([self.refine(features), skip], dim=1))
        return frame.crop(self.last(features_with_skip), self.factor)


class _Down(nn.Module):
    """Blocks, whose output is also the skip connection, then coarsening by two."""

    def __init__(self, width: int, out_width: int, depth: int, act: str, pooling: str) -> None:
        super().__init__()
        self.blocks = residual_blocks(width, depth, act)
        self.halve = nn.Sequential(coarsening_layer(pooling, width, out_width), activate(act))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.blocks(x)
        return self.halve(skip), skip


class _Up(nn.Module):
    """Refinement by two, joined with the skip connection, then blocks."""

    def __init__(self, width: int, out_width: int, depth: int, upsampling: str, act: str) -> None:
        super().__init__()
        self.finer = Upsampling(upsampling, width, out_width, (2, 2), act)
        self.join = nn.Sequential(
            convolution_activation(2 * out_width, out_width, act), residual_blocks(out_width, depth, act)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.join(torch.cat([self.finer(x), skip], dim=1))


class Autoencoder(Network):
    """An encoder to ``latent`` channels on cells ``2**levels`` times coarser than coarse ones, and a decoder.

    Parameters
    ----------
    width : int
        Channels at coarse resolution; doubled at each level below.
    levels : int
        Number of coarsenings by two below the coarse cells.
    depth : int
        Residual blocks at each end.
    latent : int
        Channels of the latent field.
    fine_width : int
        Channels at fine resolution.

    References
    ----------
    Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313, 504-507.
    """

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        outputs: int,
        factor: tuple[int, int],
        *,
        width: int = 32,
        levels: int = 1,
        depth: int = 1,
        latent: int = 32,
        fine_width: int = 16,
        upsampling: str = "conservative",
        steps: str = "prime",
        activation: str = "silu",
        pooling: str = "strided",
    ) -> None:
        super().__init__((coarse_channels, fine_channels), factor)
        self.multiple_of = 2**levels
        self.gather = Unshuffle(factor)
        inputs = coarse_channels + fine_channels * factor[0] * factor[1]
        widths = [width * 2**level for level in range(levels + 1)]
        layers: list[nn.Module] = [
            *convolution_activation(inputs, width, activation), *residual_blocks(width, depth, activation)
        ]  # fmt: skip
        for level in range(levels):
            layers += [coarsening_layer(pooling, widths[level], widths[level + 1]), activate(activation)]
        self.encoder = nn.Sequential(*layers, convolution(widths[-1], latent, 1))
        layers = [convolution(latent, widths[-1], 1), *residual_blocks(widths[-1], depth, activation)]
        for level in reversed(range(levels)):
            layers += [Upsampling(upsampling, widths[level + 1], widths[level], (2, 2), activation)]
        layers += [Upsampling(upsampling, width, fine_width, factor, activation, steps)]
        self.decoder = nn.Sequential(*layers, zero_init(convolution(fine_width, outputs)))

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return the fine field."""
        frame = Frame.of((coarse.shape[-2], coarse.shape[-1]), self.multiple_of)
        inputs = torch.cat([frame.pad(coarse), self.gather(frame.pad(fine, self.factor))], dim=1)
        return frame.crop(self.decoder(self.encoder(inputs)), self.factor)


class SuperResolutionCNN(Network):
    """A convolution, transposed convolutions, residual blocks at fine resolution, and a convolution to the output.

    With ``taps: 1`` for the kernel, so that the proposal is piecewise constant, a linear transform, and the constraint
    "additive" or "softmax", the model is the published one: only departures from cell means, or ratios to them, count.
    There are two differences. The last layer starts at zero, so that an untrained model is piecewise constant. Masks
    mark missing values.

    Parameters
    ----------
    width, depth : int
        Channels, and residual blocks after the upsampling.
    fine_width : int
        Channels of fine fields, joined with the features; with none, as published, fine fields are not used.

    References
    ----------
    Harder, P., Hernandez-Garcia, A., Ramesh, V., Yang, Q., Sattigeri, P., Szwarcman, D., Watson, C. and Rolnick, D.
    (2023), Hard-constrained deep learning for climate downscaling, Journal of Machine Learning Research 24(365), 1-40.
    """

    may_be_zero: ClassVar[frozenset[str]] = frozenset({"depth", "fine_width"})

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        outputs: int,
        factor: tuple[int, int],
        *,
        width: int = 64,
        depth: int = 4,
        fine_width: int = 0,
        upsampling: str = "transposed",
        steps: str = "prime",
        activation: str = "relu",
    ) -> None:
        super().__init__((coarse_channels, fine_channels), factor)
        self.head = convolution_activation(coarse_channels, width, activation)
        self.up = Upsampling(upsampling, width, width, factor, activation, steps)
        self.fine_head = convolution_activation(fine_channels, fine_width, activation) if fine_width else None
        self.join = convolution_activation(width + fine_width, width, activation) if fine_width else nn.Sequential()
        self.blocks = nn.Sequential(*(RectifiedBlock(width, activation) for _ in range(depth)))
        self.last = nn.Sequential(
            convolution_activation(width, width, activation), zero_init(convolution(width, outputs))
        )

    def forward(self, coarse: Tensor, fine: Tensor, core: Core | None = None) -> Tensor:
        """Return the fine field."""
        features = self.up(self.head(coarse))
        if self.fine_head is not None:
            features = torch.cat([features, self.fine_head(fine)], dim=1)
        return self.last(self.blocks(self.join(features)))


class RectifiedBlock(nn.Module):
    """Convolution, activation, convolution, addition of the input, and activation, (B, width, ny, nx)."""

    def __init__(self, width: int, act: str = "relu") -> None:
        super().__init__()
        self.inner = nn.Sequential(convolution(width, width), activate(act), convolution(width, width))
        self.after = activate(act)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the input and the inner layers."""
        return self.after(x + self.inner(x))


NETWORKS: dict[str, type[Network]] = {
    "residual": ResidualNetwork,
    "unet": UNet,
    "autoencoder": Autoencoder,
    "sr_cnn": SuperResolutionCNN,
}


def build(spec: ModelSpec) -> Network:
    """Return the network of a specification, with initial weights that add no detail.

    Examples
    --------
    >>> from downscale.nn.spec import Variable
    >>> build(ModelSpec("residual", (2, 2), (Variable("tas", "K"),), options={"depth": 1})).halo
    6
    """
    if spec.network not in NETWORKS:
        raise OptionError(f"expected network to be among {listing(NETWORKS)}, received {spec.network!r}")
    network_class = NETWORKS[spec.network]
    defaults = options_of(spec.network)
    for name, value in spec.options.items():
        if name not in defaults:
            raise OptionError(f"expected options of {spec.network!r} among {listing(defaults)}, received {name!r}")
        label = f"option {name!r} of {spec.network!r}"
        _check_kind(label, value, defaults[name])
        if type(value) is int and value == 0 and name not in network_class.may_be_zero:
            raise OptionError(f"expected {label} to be at least 1, received 0")
    constructor: Any = network_class
    try:
        return constructor(spec.coarse_channels, spec.fine_channels, sum(spec.units), spec.factor, **spec.options)
    except DownscaleError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"expected options that make a {spec.network!r} network, received {error}") from None


def options_of(network: str) -> dict[str, Any]:
    """Return the options of a network with their defaults."""
    parameters = inspect.signature(NETWORKS[network]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def _check_kind(label: str, value: Any, default: Any) -> None:
    """Raise an OptionError for a value of another kind than the default; integers are sizes, and not negative."""
    if isinstance(default, bool):
        valid, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 4096
        kind = "a whole number from 0 to 4096"
    elif isinstance(default, str):
        valid, kind = isinstance(value, str), "a text"
    else:
        valid = isinstance(value, (list, tuple)) and bool(value)
        valid = valid and all(isinstance(item, int) and not isinstance(item, bool) and item >= 1 for item in value)
        kind = "a list of whole numbers from 1 on"
    if not valid:
        raise OptionError(f"expected {label} to be {kind}, such as {default!r}, received {value!r}")
