"""Checkpoints of learned models: one safetensors file with a complete header; loading runs no code.

The header holds the model (:class:`downscale.nn.spec.ModelSpec`) and the record of its training as JSON. Training
stores the state for resuming in such files, too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscale.errors import DownscaleError, InputError, listing
from downscale.io.leases import disk_errors, temporary_beside
from downscale.io.paths import regular_file
from downscale.nn.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from downscale.nn.learned import Learned

FORMAT, FORMAT_VERSION = "downscale-model", 2
KIND = "model"
# Smaller tensors, such as scales, keep full precision.
MANY = 1024
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


@dataclass(frozen=True)
class Record:
    """Record of the training of a model, as plain values.

    ``skill`` holds, by variable on the validation split, ``rmse``, ``rmse_kernel`` (Sobolev under the same constraint)
    and their ratio ``skill``; ``data_hash`` is the SHA-256 of the training files, ``advice`` that on conservation.
    """

    title: str = ""
    description: str = ""
    licence: str = ""
    attribution: list[str] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    data_hash: str = ""
    skill: dict[str, Any] = field(default_factory=dict)
    advice: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    conserve: str | None = "cell"
    versions: dict[str, str] = field(default_factory=dict)


def save(path: str | Path, model: Learned, record: Record | None = None, half: bool = False) -> Path:
    """Write a model as one file, atomically, and return the path.

    Parameters
    ----------
    path : str or Path
        The file, named ``*.safetensors`` by custom.
    model : Learned
        The model.
    record : Record, optional
        Record of the training.
    half : bool
        Whether large weights are stored as 16-bit numbers; computations use full precision.

    Raises
    ------
    InputError
        If a weight is not finite, or too large for 16 bits.
    """
    target = Path(path).expanduser()
    state = {
        name: tensor.half() if half and tensor.is_floating_point() and tensor.numel() >= MANY else tensor
        for name, tensor in model.state_dict().items()
    }
    _require_finite(state, str(target))
    texts = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "spec": json.dumps(model.spec.to_dict()),
        "record": json.dumps(asdict(record or Record()), default=str),
    }
    write_tensors(target, state, texts)
    return target


def load(path: str | Path, network: nn.Module | None = None) -> tuple[Learned, Record]:
    """Return a model for inference, and its record; loading runs no code from the file.

    ``network`` is the module of a model with a network of your own.

    Raises
    ------
    InputError
        If the file is missing, truncated, of another kind or of a newer format, names an unknown network, or holds
        weights that do not fit or are not finite.
    """
    from downscale.nn.learned import Learned

    spec, record = load_record(path)
    try:
        model = Learned(spec, network)
    except DownscaleError as error:
        raise InputError(f"{path}: {error}") from None
    state = read_tensors(path, KIND)
    _require_fit(model.state_dict(), state, str(path))
    _require_finite(state, str(path))
    model.load_state_dict(state)
    return model.eval(), record


def load_record(path: str | Path) -> tuple[ModelSpec, Record]:
    """Return the specification and the record of a model, without its weights (and without torch).

    Raises
    ------
    InputError
        If the header describes no model, or one of a newer format.
    """
    texts = read_texts(path, KIND)
    if texts.get("format") != FORMAT or "spec" not in texts:
        raise InputError(
            f"expected a model of this package, received {path}, whose header holds "
            f"{listing(sorted(texts)) or 'nothing'}; weights alone do not describe the model"
        )
    try:
        number = int(texts.get("format_version", "0"))
        spec, record = parse_text(texts["spec"]), parse_text(texts.get("record", "{}"))
        if not isinstance(spec, dict) or not isinstance(record, dict):
            raise ValueError("no mappings")
        if not 1 <= number <= FORMAT_VERSION:
            raise InputError(
                f"expected format 1 to {FORMAT_VERSION}, received one of format {number}; update the package"
            )
        if number == 1:
            spec, record = _migrate_from_1(spec, record)
        # Unknown keys of a record are ignored.
        values = {key: record[key] for key in asdict(Record()) if key in record}
        for key, value in values.items():
            if not isinstance(value, type(getattr(Record(), key))) and (key, value) != ("conserve", None):
                raise ValueError(f"{key} of another kind")
        return ModelSpec.from_dict(spec), Record(**values)
    except DownscaleError as error:
        raise InputError(f"{path}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError):
        # Values of other kinds than this package writes.
        raise InputError(f"expected a model with a readable header, received {path}; get it again") from None


def _migrate_from_1(spec: dict[str, Any], record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of format 1 in format 2.

    Format 1 has the dates of each source without the training split: all of them may be training dates.
    """
    sources = []
    for source in record.get("sources", []):
        dates = [str(date).replace(" ", "T")[:19] for date in source.get("dates", [])]
        defaults = {"train_dates": [dates] if dates and source.get("train_maps") else [], "file_hashes": None}
        sources.append({**defaults, **source})
    return {"noise": [0, 0], **spec}, {**record, "sources": sources}


def _require_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str) -> None:
    missing, unknown = [k for k in expected if k not in state], [k for k in state if k not in expected]
    if missing or unknown:
        word, name = ("without", missing[0]) if missing else ("with an unknown", unknown[0])
        raise InputError(f"expected the weights of the model in {path}, received a file {word} {name!r}; get it again")
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise InputError(
                f"expected weights {name!r} of shape {tuple(tensor.shape)} in {path}, received "
                f"{tuple(state[name].shape)}; the file and its header belong to different models"
            )


def _require_finite(state: Mapping[str, Tensor], path: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"expected finite weights in {path}, received NaN or infinite ones in {name!r}; train with a smaller "
                "learning_rate, or get the file again"
            )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors and texts as one file, atomically and flushed to disk."""
    from safetensors.torch import save

    cpu_tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with disk_errors(path), temporary_beside(path) as scratch:
        # The library's own writer makes files that only their owner can read.
        scratch.write_bytes(save(cpu_tensors, metadata=dict(texts)))


def read_texts(path: str | Path, kind: str) -> dict[str, str]:
    """Return the texts of a file, from its header alone."""
    from safetensors import safe_open

    with _open_file(path, kind) as file, safe_open(file, framework="numpy") as stream:
        return dict(stream.metadata() or {})


def read_tensors(path: str | Path, kind: str) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU; runs no code from the file."""
    from safetensors.torch import load_file

    with _open_file(path, kind) as file:
        return load_file(file)


@contextmanager
def _open_file(path: str | Path, kind: str) -> Iterator[Path]:
    """Yield the path of a file that may be of the right kind; errors on reading become an InputError."""
    from safetensors import SafetensorError

    file = regular_file(path, kind)
    if not file.is_file():
        raise InputError(f"expected an existing {kind}, received {file}; check the path")
    with file.open("rb") as stream:
        start = stream.read(LENGTH_BYTES)
    size = file.stat().st_size
    # The length of a header may begin with any byte.
    if len(start) < LENGTH_BYTES or not 2 <= struct.unpack("<Q", start)[0] <= LONGEST_HEADER:
        foreign_kind = next((name for magic, name in FOREIGN.items() if start.startswith(magic)), None)
        received = f"{file} ({size} bytes) of another kind"
        if foreign_kind is not None:
            received = f"{file}, which is {foreign_kind}; it is never loaded"
        raise InputError(f"expected a {kind} in safetensors format, received {received}; get the right file")
    try:
        yield file
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"expected a whole {kind}, received {file} of {size} bytes, damaged or cut short ({reason}); get it again"
        ) from None


def parse_text(text: str) -> Any:
    """Return the value of a JSON text in a header, or raise a ValueError if it is no JSON or nested too deeply.

    Examples
    --------
    >>> parse_text('{"a": [1]}')
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
