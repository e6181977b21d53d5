"""Writing of a file whose fields are read back and checked block by block while they are written.

Reading the whole file after writing takes the disk as long as writing it. Here each block is stored in its chunks and
read back at once from its positions in the file, by the task that computed it; the check uses the values read. When the
file is closed, its index must name the same positions, and the NetCDF library must read the same values from some of
them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dask.array as da
import numpy as np
import xarray as xr

from downscale.errors import OutputError
from downscale.io.chunks import aligned
from downscale.io.filters import Array
from downscale.io.library import reading
from downscale.io.reread import Place, Source, require_same, source_of, sources_in
from downscale.io.stream import (
    Sink,
    Target,
    encoded_chunks,
    skeleton,
    store,
    stored_in,
    written_behind,
)
from downscale.process.buffers import leased
from downscale.process.computing import elsewhere, threads_that_end

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
# Bytes compared at both ends of a chunk to confirm its position.
ENDS = 64


@dataclass(frozen=True)
class Passage:
    """One field on its way to the file and back."""

    target: Target
    source: Source
    places: dict[tuple[int, ...], Place]
    sink: Sink

    @property
    def whole(self) -> bool:
        """Whether all chunks are stored."""
        layout = self.target.layout
        return len(self.places) == np.prod([-(-n // size) for n, size in zip(layout.shape, layout.chunks, strict=True)])

    def block(self, block: Array, *, chunks: Any, block_id: tuple[int, ...] = ()) -> Array:
        """Store a block, and return it as read back from the file."""
        out = leased(block.shape, self.target.layout.dtype)
        for offset, part, data in encoded_chunks(block, self.target, chunks, block_id):
            place = self._put(offset, data)
            self.source.read_chunk(offset, place, out[part])
            self.places[offset] = place
        return self.source.meant(out)

    def _put(self, offset: tuple[int, ...], data: Array | bytes) -> Place:
        raw = np.frombuffer(data, np.uint8)
        end = self.sink.put(self.target.name, offset, data)
        place = end - raw.size, raw.size
        # A chunk is appended to the file, unless it fits in free space or the index grew behind it. Asking for the
        # position takes longer the more chunks there are.
        if self._lies_at(place, raw):
            return place
        found = self.sink.place(self.target.name, offset)
        if found is None:
            raise self.source.not_there(offset, "no chunk")
        return found

    def _lies_at(self, place: Place, raw: Array) -> bool:
        first, size = place
        ends = (0, min(ENDS, size)), (max(size - ENDS, 0), size)
        handle = self.source.handle
        return first >= 0 and all(os.pread(handle, b - a, first + a) == raw[a:b].tobytes() for a, b in ends)

    def array(self, data: Any) -> da.Array:
        """Return the field as stored, lazily; computing it writes it."""
        blocks = aligned(data, self.target.layout.chunks)
        return da.map_blocks(
            partial(self.block, chunks=blocks.chunks), blocks, dtype=self.source.dtype,
            meta=np.empty((0,) * blocks.ndim, dtype=self.source.dtype),
            name=f"through-{self.target.name}-{os.urandom(8).hex()}",
        )  # fmt: skip


def write_judged(
    path: Path, ds: xr.Dataset, encodings: Mapping[str, Mapping[str, Any]], unlimited: list[str], kind: str,
    judge: Callable[[xr.Dataset], T],
) -> T | None:  # fmt: skip
    """Write a whole file and return the result of ``judge`` on it; None if that needs two steps."""
    # Blocks of other processes are stored here, and cannot be read back where they are computed.
    if elsewhere():
        return None
    names = skeleton(path, ds, encodings, unlimited, kind)
    if not names:
        return None
    with reading(path, decode_coords="all") as made:
        frame = made.drop_vars(names).load()
        variables = {name: made[name].variable for name in names}
    with stored_in(path, ds, names, encodings) as (targets, sink), _handle(path) as handle:
        passages = _passages(targets, variables, sink, handle)
        if len(passages) < len(names):
            return None
        found = _judged(path, ds, frame.assign(_late(passages, ds, variables)), passages, judge)
    _require_places(path, passages)
    return found


def _judged(
    path: Path, ds: xr.Dataset, made: xr.Dataset, passages: list[Passage], judge: Callable[[xr.Dataset], T]
) -> T:
    """Let the check compute the fields that it uses, and store the rest."""
    with written_behind(path), threads_that_end():
        found = judge(made)
        rest = [passage.target for passage in passages if not passage.whole]
        if rest:
            store({target.name: ds[target.name].variable.data for target in rest}, rest, passages[0].sink)
    return found


@contextmanager
def _handle(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _passages(
    targets: list[Target], variables: dict[str, xr.Variable], sink: Sink, handle: int
) -> list[Passage]:
    found = []
    for target in targets:
        places: dict[tuple[int, ...], Place] = {}
        source = source_of(variables[target.name], target.name, target.layout, handle, places)
        if source is not None:
            found.append(Passage(target, source, places, sink))
    return found


def _late(passages: list[Passage], ds: xr.Dataset, variables: dict[str, xr.Variable]) -> dict[str, Any]:
    late = {}
    for passage in passages:
        name = passage.target.name
        array = passage.array(ds[name].variable.data)
        late[name] = (variables[name].dims, array, variables[name].attrs, variables[name].encoding)
    return late


def _require_places(path: Path, passages: list[Passage]) -> None:
    """Compare the positions read with those in the closed file, and some values with the library's."""
    with reading(path, chunks={}, decode_coords="all") as made, _handle(path) as handle:
        names = [passage.target.name for passage in passages]
        named = {source.name: source for source in sources_in(made, names, path, handle)}
        for passage in passages:
            name = passage.target.name
            if name not in named or any(named[name].places.get(at) != there for at, there in passage.places.items()):
                raise OutputError(
                    f"{name}: expected its chunks where they were written, received others from the index of the file; "
                    "check the disk, write again"
                )
            require_same(made[name].variable, named[name])
