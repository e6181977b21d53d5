"""The methods of downscaling in one table: their names, and what each can do.

A new method with a name is one entry of ``METHODS`` and a builder in :mod:`downscale.steps.prepare`; one with weights
per axis is one entry of ``downscale.nn.separable.METHODS``. Learned models and any object with the protocol
:class:`downscale.typing.Upscaler` need none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from downscale.errors import OptionError, listing
from downscale.models import NAMES
from downscale.nn.separable import METHODS as KERNELS
from downscale.typing import Upscaler

SUFFIX = ".safetensors"
CASCADE = "cascade"
# The default kernel, and the choice of its other settings by self-validation.
KERNEL, AUTO = "sobolev", "auto"


class Method(NamedTuple):
    """A kind of method, by which :mod:`downscale.steps.prepare` builds it, and its capabilities.

    ``separable`` methods are one linear operator per axis, and also refine along time and layers. ``members`` states
    whether the method generates an ensemble; None if it depends on the object.
    """

    kind: str
    separable: bool = False
    members: bool | None = False
    smoothing: bool = False
    footprint: bool = False
    transform: bool = False


METHODS = {
    **{name: Method("kernel", True, footprint=name == KERNEL, transform=name == KERNEL) for name in KERNELS},
    CASCADE: Method("cascade", members=True, smoothing=True),
    AUTO: Method("kernel", True, footprint=True, transform=True),
}
LEARNED, OBJECT = Method("learned", members=None), Method("object", members=None)


def is_learned(method: Any) -> bool:
    """Return whether a method is a learned model: a model in memory, the path of a checkpoint, or a model's name."""
    if isinstance(method, (str, Path)):
        return str(method) in NAMES or str(method).endswith(SUFFIX)
    return hasattr(method, "bind") and hasattr(method, "spec")


def name_of(method: Any) -> str:
    """Return the display name of a method."""
    if isinstance(method, (str, Path)):
        return str(method)
    return f"{method.spec.network} network" if is_learned(method) else type(method).__name__


def find_method(method: Any) -> Method:
    """Return the entry of a name, a path, a model in memory or an object with the protocol of methods.

    Examples
    --------
    >>> find_method("cascade").members
    True
    """
    if is_learned(method):
        return LEARNED
    names = listing((*METHODS, *NAMES))
    if isinstance(method, (str, Path)):
        if str(method) in METHODS:
            return METHODS[str(method)]
        raise OptionError(
            f"expected method to be one of {names} or the path of a checkpoint ({SUFFIX}), received {str(method)!r}"
        )
    if isinstance(method, Upscaler):
        return OBJECT
    raise OptionError(
        f"expected method to be one of {names}, a checkpoint, or an object with the protocol of a method, received "
        f"{type(method).__name__}"
    )
