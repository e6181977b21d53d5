"""What the name of an input means: a file, a folder, a pattern or an address; never a pipe or a device."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from downscale.errors import InputError

# Where data are kept elsewhere. A Path makes one slash of the two.
SCHEMES = "https?|s3a?|gs|gcs|dap[24]?|ftps?|sftp|abfss?|az|hf|reference"
ADDRESS = re.compile(
    rf"(?:(?P<known>{SCHEMES}):/{{1,2}}|(?P<other>[A-Za-z][A-Za-z0-9+.-]+)://)(?P<rest>[^/].*)", re.DOTALL
)
PATTERN = "*?["
SPECIAL = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
# Files that a process holds open beside its inputs.
SPARE = 128
FileName = str | os.PathLike[str]


def address_of(path: Any) -> str | None:
    """Return the address that a path means, such as ``https://...``, with both its slashes; None for a local path.

    Examples
    --------
    >>> address_of(Path("https://example.org/tas.nc")), address_of("s3://bucket/tas.zarr"), address_of("tas.nc")
    ('https://example.org/tas.nc', 's3://bucket/tas.zarr', None)
    """
    found = ADDRESS.fullmatch(str(path)) if isinstance(path, str | os.PathLike) else None
    return None if found is None else f"{found['known'] or found['other']}://{found['rest']}"


def regular_file(path: FileName, option: str = "") -> Path:
    """Return a local path that can be opened without waiting: a file, a folder, or nothing yet.

    Parameters
    ----------
    path : str or Path
        As the user typed it; ``~`` is the home folder.
    option : str
        What the path was given for, for the message.

    Raises
    ------
    InputError
        If it is a pipe, a socket, a device or the standard input, which could be waited for without end, an address,
        or no name of a file.
    """
    before = f"{option}: " if option else ""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{before}expected the path of a file, received {type(path).__name__}; pass a str or a Path")
    text = os.path.expanduser(os.fspath(path))
    if not text or "\0" in text:
        raise InputError(f"{before}expected the path of a file, received {text!r}; check the path")
    if text in STANDARD_INPUT:
        raise InputError(
            f"{before}expected a regular file, received {path}, the standard input; write it to a file first"
        )
    if address_of(text):
        raise InputError(f"{before}expected a local file, received the address {address_of(text)}; download it first")
    try:
        mode = os.stat(text).st_mode
    except OSError:
        return Path(text)
    for is_such, what in SPECIAL:
        if is_such(mode):
            raise InputError(
                f"{before}expected a regular file, received {path}, which is {what}; write it to a file first"
            )
    return Path(text)


def names_in(path: Any) -> list[str]:
    """Return the local paths and addresses that a path, a pattern or a list of these means, sorted within a pattern.

    A file of that very name comes before a pattern: ``tas[1].nc`` is a file where there is one.

    Raises
    ------
    InputError
        If there is none.
    """
    if isinstance(path, Iterable) and not isinstance(path, str | bytes | os.PathLike):
        each = [name for one in path for name in names_in(one)]
        if not each:
            raise InputError("expected at least one file, received an empty list; check how it was made")
        return list(dict.fromkeys(each))
    address = address_of(path)
    if address is not None:
        return [address]
    text = str(regular_file(path))
    if os.path.exists(text):
        return [text]
    if any(mark in text for mark in PATTERN):
        found = sorted(glob(text, recursive=True))
        if not found:
            raise InputError(f"expected files that match {text}, received none; check the pattern")
        return [str(regular_file(name)) for name in found]
    raise InputError(f"expected an existing file, received {text}; check the path")


def called(path: Any) -> str:
    """Return how a message names an input: as it was typed, of a list the first and how many more.

    Examples
    --------
    >>> called(["a.nc", "b.nc", "c.nc"])
    'a.nc and 2 more'
    """
    if isinstance(path, str | os.PathLike):
        return address_of(path) or str(path)
    each = list(path)
    return f"{called(each[0])} and {len(each) - 1} more" if len(each) > 1 else called(each[0])


def make_room(files: int) -> None:
    """Let this process hold so many files open at once, as far as the system allows it without asking."""
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files + SPARE if hard == resource.RLIM_INFINITY else min(files + SPARE, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
