"""Safetensors files whose header holds JSON: written at once or not at all, read without running anything (torch).

Knows bytes, tensors and texts; no model. Everything that training keeps is stored this way: weights, and what a run
goes on from.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscale.errors import InputError
from downscale.io.leases import temporary_beside
from downscale.io.paths import regular_file
from downscale.io.write import one_line

if TYPE_CHECKING:
    from torch import Tensor

# A header is a length in eight bytes, then JSON; longer ones are no headers but other bytes.
LENGTH_BYTES, LONGEST_HEADER = 8, 100_000_000
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"CDF": "a NetCDF file",
    b"\x1f\x8b": "a gzip file",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors and texts as one file that appears complete, flushed, or not at all.

    Raises
    ------
    OutputError
        If the disk is full or not writable.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with one_line(path), temporary_beside(path) as scratch:
        # The library's own writer makes files that only their owner can read.
        scratch.write_bytes(save(plain, metadata=dict(texts)))


def read_texts(path: str | Path, what: str) -> dict[str, str]:
    """Return the texts of a file after looking at its header alone.

    Raises
    ------
    InputError
        If there is no such file, or it is cut short, of another kind, or damaged.
    """
    header = _header(regular_file(path, what), what)
    texts = header.get("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"expected texts in the header of {what} {path}, received others; get the file again")
    return texts


def read_tensors(path: str | Path, what: str) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU; runs nothing that the file says.

    Raises
    ------
    InputError
        If the file is cut short, of another kind, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = regular_file(path, what)
    _header(file, what)
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"expected a whole {what}, received {path}, which is damaged ({reason})") from None


def _header(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"expected an existing {what}, received {path}; check the path")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(LENGTH_BYTES)
        kind = next((name for magic, name in FOREIGN.items() if start.startswith(magic)), None)
        # The length of a header may begin with any byte; JSON behind it settles what the file is.
        length = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
        if not 2 <= length <= LONGEST_HEADER:
            got = f"{path}, which is {kind}; it is never loaded" if kind else f"{path} ({size} bytes) of another kind"
            raise InputError(f"expected a {what} in safetensors format, received {got}; get the right file")
        text = stream.read(length)
    if len(text) < length:
        raise InputError(f"expected a whole {what}, received {path}, cut short after {size} bytes; get it again")
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise InputError(f"expected a {what} in safetensors format, received {path} without a header; get it again")
    _require_all(path, header, size - LENGTH_BYTES - length, what)
    return header


def _require_all(path: Path, header: dict[str, Any], held: int, what: str) -> None:
    """Raise an InputError where the tensors of a header reach beyond the end of the file."""
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (TypeError, KeyError, IndexError, ValueError):
        raise InputError(f"expected a whole {what}, received {path} with a damaged header; get it again") from None
    if max(ends, default=0) > held:
        raise InputError(
            f"expected a whole {what}, received {path}, cut short: {held} of {max(ends)} bytes of weights; get it again"
        )
