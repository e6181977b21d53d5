"""Input names: files, folders, patterns or addresses; pipes and devices are refused."""

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

# Schemes of remote addresses. A Path collapses their two slashes to one.
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
# File descriptors reserved for purposes other than inputs.
SPARE = 128
FileName = str | os.PathLike[str]


def address_of(path: Any) -> str | None:
    """Return the address of a path, such as ``https://...``, with both its slashes; None for a local path.

    Examples
    --------
    >>> address_of(Path("https://example.org/tas.nc")), address_of("s3://bucket/tas.zarr"), address_of("tas.nc")
    ('https://example.org/tas.nc', 's3://bucket/tas.zarr', None)
    """
    found = ADDRESS.fullmatch(str(path)) if isinstance(path, str | os.PathLike) else None
    return None if found is None else f"{found['known'] or found['other']}://{found['rest']}"


def regular_file(path: FileName, option: str = "") -> Path:
    """Return a local path that can be opened without waiting: a file, a folder, or a path that does not exist yet.

    Parameters
    ----------
    path : str or Path
        The path as typed; ``~`` is the home folder.
    option : str
        The option that the path belongs to, for the message.

    Raises
    ------
    InputError
        If it is a pipe, a socket, a device or the standard input, which could block forever, an address, or not a file
        name.
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
    """Return the local paths and addresses of a path, a pattern or a list of these, sorted within a pattern.

    An existing file takes precedence over a pattern: ``tas[1].nc`` is that file if it exists.

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
    """Return the name of an input for messages: as typed; for a list the first name and the number of others.

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
    """Raise the limit of open files of this process to ``files``, as far as the system allows."""
    try:
        import resource
    except ImportError:  # systems without such limits
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files + SPARE if hard == resource.RLIM_INFINITY else min(files + SPARE, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
