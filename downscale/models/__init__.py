"""Bundled pretrained models, by name and factor."""

from __future__ import annotations

from pathlib import Path

from downscale.errors import OptionError

FOLDER = Path(__file__).parent
NAMES = ("rain", "temperature")
# Default factor of each name.
DEFAULT_FACTOR = 4


def path_of(model: str | Path, factor: tuple[int, int] | None = None) -> Path:
    """Return the checkpoint of a bundled model, by its name and a factor; other paths are returned unchanged.

    Raises
    ------
    OptionError
        If the model is not bundled for this factor.
    """
    name = str(model)
    if name not in NAMES:
        return Path(model).expanduser()
    pair = (DEFAULT_FACTOR, DEFAULT_FACTOR) if factor is None else factor
    path = FOLDER / f"{name}_x{pair[0]}.safetensors"
    if pair[0] != pair[1] or not path.exists():
        available = ", ".join(str(number) for number in factors(name)) or "none"
        raise OptionError(
            f"expected a factor of the bundled model {name!r} ({available}), received {pair[0]} x {pair[1]}; "
            "train one, or use method='sobolev'"
        )
    return path


def factors(name: str) -> tuple[int, ...]:
    """Return the factors for which a model is bundled."""
    return tuple(sorted(int(path.stem.rsplit("_x", 1)[1]) for path in FOLDER.glob(f"{name}_x*.safetensors")))
