"""Bundled pretrained models, by name and factor."""

from __future__ import annotations

from pathlib import Path

from downscale.errors import OptionError

FOLDER = Path(__file__).parent
NAMES = ("rain", "temperature")
# Default factor of each name.
USUAL = 4


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
    wanted = (USUAL, USUAL) if factor is None else factor
    path = FOLDER / f"{name}_x{wanted[0]}.safetensors"
    if wanted[0] != wanted[1] or not path.exists():
        there = ", ".join(str(each) for each in factors(name)) or "none"
        raise OptionError(
            f"expected a factor of the bundled model {name!r} ({there}), received {wanted[0]} x {wanted[1]}; "
            "train one, or use method='sobolev'"
        )
    return path


def factors(name: str) -> tuple[int, ...]:
    """Return the factors for which a model is bundled."""
    return tuple(sorted(int(path.stem.rsplit("_x", 1)[1]) for path in FOLDER.glob(f"{name}_x*.safetensors")))
