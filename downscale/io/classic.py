"""The length that a classic NetCDF file must have, from its header.

The NetCDF library returns zeros beyond the end of a truncated classic file, so that half a download looks like data.
For HDF5 files (NetCDF-4), the library itself detects this.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from downscale.errors import InputError

# Widths in bytes of a count and of an offset, by the version number after the letters CDF.
WIDTHS = {1: (4, 4), 2: (4, 8), 5: (8, 8)}
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def require_whole(path: str | Path) -> None:
    """Raise an error if a classic NetCDF file is shorter than its header requires; other files pass.

    Raises
    ------
    InputError
        If it is shorter; the message has both lengths.
    """
    actual = Path(path).stat().st_size
    try:
        with Path(path).open("rb") as file:
            expected = _expected_length(file)
    except (struct.error, KeyError, UnicodeDecodeError):
        raise InputError(f"expected a whole NetCDF file, received {path} with half a header; get it again") from None
    if expected is not None and actual < expected:
        raise InputError(
            f"expected a whole NetCDF file of {expected} bytes, received {path} of {actual} bytes; get it again"
        )


def _expected_length(file: BinaryIO) -> int | None:
    """Return the end of the last value of a classic file, or None for other kinds of file."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"CDF" or magic[3] not in WIDTHS:
        return None
    header = _Header(file, *WIDTHS[magic[3]])
    records = header.count()
    sizes = header.dimensions()
    header.attributes()
    variables = header.variables(sizes)
    if records == 2 ** (8 * header.count_width) - 1:
        # A file that is still streamed lacks the number of records.
        records = 0
    return max((_end(part, records, variables) for part in variables), default=file.tell())


@dataclass(frozen=True)
class _Variable:
    begin: int
    length: int
    record: bool


def _end(variable: _Variable, records: int, others: list[_Variable]) -> int:
    if not variable.record:
        return variable.begin + variable.length
    lengths = [other.length for other in others if other.record]
    # Each variable's part of a record is padded to four bytes, except if there is only one.
    step = lengths[0] if len(lengths) == 1 else sum(-(-length // 4) * 4 for length in lengths)
    return variable.begin + (records - 1) * step + variable.length if records else variable.begin


@dataclass(frozen=True)
class _Header:
    """A parser of the header, item by item."""

    file: BinaryIO
    count_width: int
    offset_width: int

    def integer(self, width: int = 4) -> int:
        return int(struct.unpack(">I" if width == 4 else ">Q", self.file.read(width))[0])

    def count(self) -> int:
        return self.integer(self.count_width)

    def skip(self, length: int) -> None:
        padded = -(-length // 4) * 4
        if len(self.file.read(padded)) < padded:
            raise struct.error("end of file")

    def list_length(self) -> int:
        self.integer()
        return self.count()

    def dimensions(self) -> list[int]:
        sizes = []
        for _ in range(self.list_length()):
            self.skip(self.count())
            sizes.append(self.count())
        return sizes

    def attributes(self) -> None:
        for _ in range(self.list_length()):
            self.skip(self.count())
            kind = self.integer()
            self.skip(self.count() * TYPE_SIZES[kind])

    def variables(self, sizes: list[int]) -> list[_Variable]:
        found = []
        for _ in range(self.list_length()):
            self.skip(self.count())
            shape = [sizes[self.count()] for _ in range(self.count())]
            self.attributes()
            kind = self.integer()
            self.count()
            begin = self.integer(self.offset_width)
            record = bool(shape) and shape[0] == 0
            length = math.prod(shape[1:] if record else shape) * TYPE_SIZES[kind]
            found.append(_Variable(begin, length, record))
        return found
