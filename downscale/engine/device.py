"""Devices: selection, transfer and precision of tensors.

A process uses one GPU, the first that it sees. Clusters with one process per GPU show each process its own GPU as the
first (``CUDA_VISIBLE_DEVICES``), so that "auto" and "cuda" mean another GPU in each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from downscale.errors import OptionError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

logger = logging.getLogger("downscale")

# Device files of GPU drivers; importing PyTorch only to find no GPU would take seconds.
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def is_cpu(name: str = "auto") -> bool:
    """Return whether that device is the CPU, without importing PyTorch if there can be no GPU."""
    if name == "cpu" or (name == "auto" and not any(os.path.exists(path) for path in DRIVERS)):
        return True
    return pick_device(name).type == "cpu"


def has_fast_bf16() -> bool:
    """Return whether this processor supports bfloat16 arithmetic; without support it is twenty times slower."""
    import llvmlite.binding

    features = llvmlite.binding.get_host_cpu_features()
    return any(features.get(name) for name in ("avx512bf16", "amx-bf16", "bf16"))


def device_name(name: str = "auto") -> str:
    """Return the name of the requested device; imports PyTorch only if necessary."""
    return "cpu" if is_cpu(name) else str(pick_device(name))


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name, or raise ``OptionError``; "auto" is the first CUDA GPU, else the CPU.

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
    """Return the kinds of device of this machine."""
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def device_names() -> list[str]:
    """Return readable names of the devices."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["cpu", *cards, *(["mps"] if torch.backends.mps.is_available() else [])]


def working_type(device: torch.device) -> torch.dtype:
    """Return the precision of the arithmetic: float64, which Apple's GPUs lack."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


class DeviceTransfer:
    """Transfer of arrays to a device and back in its working precision ``dtype``.

    ``overlaps`` is whether results are copied during computation, so that one batch in flight pays.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device = device
        self.dtype = np.dtype(np.float32 if working_type(device) == torch.float32 else np.float64)
        self.overlaps = device.type == "cuda"
        self._fetch_stream = torch.cuda.Stream(device) if self.overlaps else None

    def send(self, array: NDArray[Any]) -> torch.Tensor:
        """Return a copy of an array on the device in the working precision; it may still be in transfer."""
        import torch

        if self._fetch_stream is None:
            return torch.from_numpy(np.require(array, self.dtype, ["C", "W"])).to(self.device)
        host = torch.empty(array.shape, dtype=working_type(self.device), pin_memory=True)
        np.copyto(host.numpy(), array)
        # The allocator does not reuse pinned memory before the copy is done.
        return host.to(self.device, non_blocking=True)

    def fetch(self, tensor: torch.Tensor, dtype: np.dtype[Any]) -> Callable[[], NDArray[Any]]:
        """Return a function that waits for the copy of a tensor as an array of that type; the copy starts at once."""
        import torch

        # Rounded before the transfer, as NumPy rounds; half the bytes.
        precision = torch.float32 if dtype == np.float32 else tensor.dtype
        source = tensor.detach().to(precision).contiguous()
        if self._fetch_stream is None:
            array = source.cpu().numpy()
            return lambda: array.astype(dtype, copy=False)
        host = torch.empty(source.shape, dtype=precision, pin_memory=True)
        self._fetch_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._fetch_stream):
            host.copy_(source, non_blocking=True)
            copy_event = self._fetch_stream.record_event()
        # Its memory is reused only after the copy.
        source.record_stream(self._fetch_stream)

        def wait_for_copy() -> NDArray[Any]:
            copy_event.synchronize()
            return host.numpy().astype(dtype, copy=False)

        return wait_for_copy

    def free_bytes(self) -> int | None:
        """Return the free bytes of a GPU; None for other devices."""
        import torch

        if self._fetch_stream is None:
            return None
        unused_bytes, _ = torch.cuda.mem_get_info(self.device)
        # Memory that PyTorch caches is free, too.
        return int(unused_bytes + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device))

    def release(self) -> None:
        """Release cached memory."""
        import torch

        if self._fetch_stream is not None:
            self._fetch_stream.synchronize()
            torch.cuda.empty_cache()

    def install(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return a module on the device; its function ``refine`` is compiled on a GPU."""
        device_module = module.to(self.device, working_type(self.device))
        if self._fetch_stream is not None:
            device_module.refine = compile_with_fallback(device_module.refine)  # type: ignore[assignment, arg-type]
        return device_module


# Compiled forms of one function: for one map and for several, for each stencil width.
MOST_FORMS = 64


@cache
def compile_with_fallback(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a function compiled by PyTorch at its first call, or the same if that fails: some machines lack compilers.

    Sizes are dynamic, so that blocks and batches of all sizes in the process share the compiled code.
    """
    import torch

    compiler = cast(Any, torch.compile)
    try:
        compiled_function = compiler(function, dynamic=True, recompile_limit=MOST_FORMS)
    except TypeError:
        # Versions of PyTorch before this option have a limit of eight.
        compiled_function = compiler(function, dynamic=True)

    def call(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal compiled_function
        try:
            return cast("torch.Tensor", compiled_function(*arguments))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if compiled_function is function:
                raise
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            logger.warning("up-sampling continues without compilation, which failed: %s", reason)
            compiled_function = function
        # Outside of the handler, since the error would keep memory alive.
        return function(*arguments)

    return call
