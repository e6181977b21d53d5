"""Checkpoints of learned models: one safetensors file with a complete header; loading runs no code.

The header holds the model (:class:`downscale.nn.spec.ModelSpec`) and the record of its training as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downscale.errors import DownscaleError, InputError, listing
from downscale.models.tensors import parsed, read_tensors, read_texts, write_tensors
from downscale.nn.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.nn.learned import Learned

FORMAT, FORMAT_VERSION = "downscale-model", 2
WHAT = "model"
# Smaller tensors, such as scales, keep full precision.
MANY = 1024


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


def save(path: str | Path, learned: Learned, record: Record | None = None, half: bool = False) -> Path:
    """Write a model as one file, atomically, and return the path.

    Parameters
    ----------
    path : str or Path
        The file, named ``*.safetensors`` by custom.
    learned : Learned
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
    state = {name: _halved(tensor) if half else tensor for name, tensor in learned.state_dict().items()}
    _require_finite(state, str(target))
    texts = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "spec": json.dumps(learned.spec.to_dict()),
        "record": json.dumps(asdict(record or Record()), default=str),
    }
    write_tensors(target, state, texts)
    return target


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() and tensor.numel() >= MANY else tensor


def load(path: str | Path) -> tuple[Learned, Record]:
    """Return a model for inference, and its record; loading runs no code from the file.

    Raises
    ------
    InputError
        If the file is missing, truncated, of another kind or of a newer format, names an unknown network, or holds
        weights that do not fit or are not finite.
    """
    from downscale.nn.learned import Learned

    spec, record = load_record(path)
    try:
        learned = Learned(spec)
    except DownscaleError as error:
        raise InputError(f"{path}: {error}") from None
    state = read_tensors(path, WHAT)
    _require_fit(learned.state_dict(), state, str(path))
    _require_finite(state, str(path))
    learned.load_state_dict(state)
    return learned.eval(), record


def load_record(path: str | Path) -> tuple[ModelSpec, Record]:
    """Return the specification and the record of a model, without its weights (and without torch).

    Raises
    ------
    InputError
        If the header describes no model, or one of a newer format.
    """
    texts = read_texts(path, WHAT)
    if texts.get("format") != FORMAT or "spec" not in texts:
        raise InputError(
            f"expected a model of this package, received {path}, whose header holds "
            f"{listing(sorted(texts)) or 'nothing'}; weights alone do not describe the model"
        )
    try:
        number = int(texts.get("format_version", "0"))
        spec, record = parsed(texts["spec"]), parsed(texts.get("record", "{}"))
        if not isinstance(spec, dict) or not isinstance(record, dict):
            raise ValueError("no mappings")
    except ValueError:
        raise InputError(f"expected a model with a readable header, received {path}; get it again") from None
    if number > FORMAT_VERSION or number < min(MIGRATIONS):
        raise InputError(
            f"expected a model of format {min(MIGRATIONS)} to {FORMAT_VERSION}, received {path} of format {number}; "
            "update the package"
        )
    try:
        for old in range(number, FORMAT_VERSION):
            spec, record = MIGRATIONS[old](spec, record)
        return ModelSpec.from_dict(spec), _record_of(record)
    except DownscaleError as error:
        raise InputError(f"{path}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError):
        # Values of other kinds than this package writes.
        raise InputError(f"expected a model with a readable header, received {path}; get it again") from None


def _record_of(given: Mapping[str, Any]) -> Record:
    """Return the record in a header; unknown keys are ignored."""
    defaults = asdict(Record())
    values = {key: value for key, value in given.items() if key in defaults}
    for key, value in values.items():
        if not isinstance(value, type(defaults[key])) and not (key == "conserve" and value is None):
            raise ValueError(f"{key} of another kind")
    return Record(**values)


def _from_1(spec: dict[str, Any], record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Format 1 has the dates of each source without the training split: all of them may be training dates."""
    sources = []
    for source in record.get("sources", []):
        dates = [str(date).replace(" ", "T")[:19] for date in source.get("dates", [])]
        defaults = {"train_dates": [dates] if dates and source.get("train_maps") else [], "file_hashes": None}
        sources.append({**defaults, **source})
    return {"noise": [0, 0], **spec}, {**record, "sources": sources}


# Conversions of header and record from one format to the next, so that older files stay readable.
MIGRATIONS = {1: _from_1}


def _require_fit(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str) -> None:
    missing, unknown = [k for k in wanted if k not in state], [k for k in state if k not in wanted]
    if missing or unknown:
        word, name = ("without", missing[0]) if missing else ("with an unknown", unknown[0])
        raise InputError(f"expected the weights of the model in {path}, received a file {word} {name!r}; get it again")
    for name, tensor in wanted.items():
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
