"""Safetensors files with JSON in the header, written atomically and read without running code.

Training stores weights and the state for resuming this way.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscale.errors import InputError
from downscale.io.leases import disk_errors, temporary_beside
from downscale.io.paths import regular_file

if TYPE_CHECKING:
    from torch import Tensor

# A header has a length of eight bytes, then JSON; a longer one is not a header.
LENGTH_BYTES, LONGEST_HEADER = 8, 1 << 24
# Largest depth of lists and mappings in a text.
DEEPEST = 40
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"CDF": "a NetCDF file",
    b"\x1f\x8b": "a gzip file",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors and texts as one file, atomically and flushed to disk."""
    from safetensors.torch import save

    cpu_tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with disk_errors(path), temporary_beside(path) as scratch:
        # The library's own writer makes files that only their owner can read.
        scratch.write_bytes(save(cpu_tensors, metadata=dict(texts)))


def read_texts(path: str | Path, what: str) -> dict[str, str]:
    """Return the texts of a file, from its header alone."""
    from safetensors import SafetensorError, safe_open

    file = _looked_at(regular_file(path, what), what)
    try:
        with safe_open(file, framework="numpy") as stream:
            return dict(stream.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(file, what, error) from None


def read_tensors(path: str | Path, what: str) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU; runs no code from the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = _looked_at(regular_file(path, what), what)
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(file, what, error) from None


def parsed(text: str) -> Any:
    """Return the value of a JSON text in a header, or raise a ValueError if it is no JSON or nested too deeply.

    Examples
    --------
    >>> parsed('{"a": [1]}')
    {'a': [1]}
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for item in level if isinstance(item, (list, dict))
                 for inner in (item.values() if isinstance(item, dict) else item)]  # fmt: skip
        if not level:
            return value
    raise ValueError("nested too deeply")


def _looked_at(path: Path, what: str) -> Path:
    """Return the path of a file, after checking that it may be of the right kind."""
    if not path.is_file():
        raise InputError(f"expected an existing {what}, received {path}; check the path")
    with path.open("rb") as stream:
        start = stream.read(LENGTH_BYTES)
    kind = next((name for magic, name in FOREIGN.items() if start.startswith(magic)), None)
    # The length of a header may begin with any byte.
    length = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
    if not 2 <= length <= LONGEST_HEADER:
        size = path.stat().st_size
        received = f"{path}, which is {kind}; it is never loaded" if kind else f"{path} ({size} bytes) of another kind"
        raise InputError(f"expected a {what} in safetensors format, received {received}; get the right file")
    return path


def _damaged(path: Path, what: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    size = path.stat().st_size
    return InputError(
        f"expected a whole {what}, received {path} of {size} bytes, damaged or cut short ({reason}); get it again"
    )
