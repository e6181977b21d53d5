"""The only file that names a device: where tensors are placed and in what precision (torch, loaded when needed)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from downscale.errors import OptionError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Where the drivers of cards show themselves; loading torch only to find none would take seconds.
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def is_cpu(name: str = "auto") -> bool:
    """Return whether that device is the CPU, without loading torch where no card can be."""
    if name == "cpu" or (name == "auto" and not any(os.path.exists(path) for path in DRIVERS)):
        return True
    return pick_device(name).type == "cpu"


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name; "auto" takes the first CUDA card, else the CPU.

    Raises
    ------
    OptionError
        If the name is unknown or there is no such device here; says what there is.

    Examples
    --------
    >>> pick_device("cpu")
    device(type='cpu')
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"expected device 'auto' or one of {available_devices()}, received {name!r}") from None
    if device.type not in available_devices():
        raise OptionError(f"expected device 'auto' or one of {available_devices()}, received {name!r}")
    return device


def available_devices() -> list[str]:
    """Return the kinds of device that this machine has."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def device_names() -> list[str]:
    """Return readable names of the devices, for people."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["cpu", *cards, *(["mps"] if torch.backends.mps.is_available() else [])]


def working_type(device: torch.device) -> torch.dtype:
    """Return the precision of the arithmetic: float64, which Apple's cards lack."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def to_tensor(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Place an array on a device in the working precision."""
    import torch

    kind = np.float32 if working_type(device) == torch.float32 else np.float64
    return torch.from_numpy(np.ascontiguousarray(array, dtype=kind)).to(device)


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """Bring a tensor back as an array."""
    return tensor.detach().cpu().numpy()
