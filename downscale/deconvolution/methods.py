"""Deconvolution methods by name, with their options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from downscale.errors import OptionError, listing

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.deconvolution.blur import Blur
    from downscale.deconvolution.noise import Restored

# Options of each method.
OPTIONS: dict[str, tuple[str, ...]] = {
    "richardson_lucy": ("noise", "iterations", "damping"),
    "wiener": ("parameter",),
    "tikhonov": ("parameter", "order"),
}


@dataclass(frozen=True)
class Restoration:
    """A method with checked options; None selects the method's default.

    Examples
    --------
    >>> Restoration("tikhonov", order=2).given
    {'order': 2}
    """

    method: str = "richardson_lucy"
    noise: float | None = None
    iterations: int | None = None
    damping: float | None = None
    parameter: float | None = None
    order: int | None = None

    def __post_init__(self) -> None:
        if self.method not in OPTIONS:
            raise OptionError(f"expected a method among {listing(OPTIONS)}, received {self.method!r}")
        for name in self.given:
            if name not in OPTIONS[self.method]:
                raise OptionError(
                    f"expected options among {listing(OPTIONS[self.method])} with {self.method!r}, received {name!r}; "
                    "drop it or choose another method"
                )

    @property
    def given(self) -> dict[str, Any]:
        """The options that are set."""
        names = ("noise", "iterations", "damping", "parameter", "order")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __call__(self, data: Tensor, blur: Blur) -> Restored:
        """Return one restored field, zero at invalid cells."""
        return _function(self.method)(data, blur, **self.given)

    def __str__(self) -> str:
        return " ".join([f"method={self.method}", *(f"{key}={value:g}" for key, value in self.given.items())])


def _function(name: str) -> Callable[..., Restored]:
    from downscale.deconvolution.richardson_lucy import richardson_lucy
    from downscale.deconvolution.tikhonov import tikhonov, wiener

    known: dict[str, Callable[..., Restored]] = {
        "richardson_lucy": richardson_lucy, "wiener": wiener, "tikhonov": tikhonov,
    }  # fmt: skip
    return known[name]
