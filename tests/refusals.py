"""What a refusal must be: one line that says enough, its exit status, and a folder as it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import xarray as xr
from command import Said, command

import downscale


def north_america(times: int = 3) -> xr.Dataset:
    """The real sample in memory, a few maps of it, as a file of anybody's would hold it."""
    ds = downscale.sample.open("north_america", chunks=None).isel(time=slice(0, times)).load()
    for variable in ds.variables.values():
        variable.encoding = {key: variable.encoding[key] for key in ("units", "calendar") if key in variable.encoding}
    return ds


def contents() -> dict[str, str]:
    """Everything in this folder, hidden or not, with a digest of each file."""
    here = sorted(Path().rglob("*"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in here}


def refused(words: str, *arguments: Any, status: int = 2) -> Said:
    """Run the command; it must refuse with ``words`` in its one line and leave every byte as it was."""
    before = contents()
    said = command(*arguments)
    assert said.status == status, (said.err, said.out)
    assert words in said.complaint, said.complaint
    assert not said.complaint.startswith("downscale: internal")
    assert len(said.complaint) < 700
    assert contents() == before
    return said
