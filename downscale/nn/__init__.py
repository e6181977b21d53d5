"""Conservative upsampling, fixed and learnable.

Names that need torch are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from downscale.nn.conv_transpose import ConservativeConvTranspose2d as ConservativeConvTranspose2d
    from downscale.nn.learned import Learned as Learned
    from downscale.nn.spec import ModelSpec as ModelSpec
    from downscale.nn.spec import Variable as Variable
    from downscale.nn.upsample import SobolevUpsample as SobolevUpsample

_HOMES = {
    "ConservativeConvTranspose2d": "conv_transpose",
    "Learned": "learned",
    "ModelSpec": "spec",
    "SobolevUpsample": "upsample",
    "Variable": "spec",
}

__all__ = ["ConservativeConvTranspose2d", "Learned", "ModelSpec", "SobolevUpsample", "Variable"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
