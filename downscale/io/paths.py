"""Names of inputs and outputs: what can be read, what may be written."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any

from downscale.errors import InputError, OutputError

# Schemes of remote addresses. A Path collapses their two slashes to one.
SCHEMES = "https?|s3a?|gs|gcs|dap[24]?|ftps?|sftp|abfss?|az|hf|reference"
ADDRESS = re.compile(
    rf"(?:(?P<known>{SCHEMES}):/{{1,2}}|(?P<other>[A-Za-z][A-Za-z0-9+.-]+)://)(?P<rest>[^/].*)", re.DOTALL
)
PATTERN = "*?["
SPECIAL = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
# Key of the encoding of variables for the files that they come from.
SOURCES = "sources"
# File descriptors reserved for purposes other than inputs.
SPARE = 128
FileName = str | os.PathLike[str]
# How to replace an existing output: on the command line and in calls, or in recipes.
OVERWRITE, IN_RECIPE = "pass --overwrite (overwrite=True)", "set overwrite: true in output:, or remove it"
# Suffixes of other formats, and how to write them.
FOREIGN = {
    **dict.fromkeys((".grib", ".grib2", ".grb", ".grb2"), "write .nc, then convert it with cdo -f grb2 copy"),
    **dict.fromkeys((".tif", ".tiff", ".geotiff"), "write .nc, then convert it with gdal_translate"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zip", ".tar"), "leave that suffix out: fields are compressed inside"),
    **dict.fromkeys(
        (".csv", ".txt", ".json", ".yml", ".yaml", ".md", ".html", ".py", ".png", ".jpg", ".jpeg", ".pdf", ".svg",
         ".npy", ".npz", ".parquet", ".safetensors", ".zarr"), "choose a name that ends with .nc"),
}  # fmt: skip
STORES = (".zgroup", ".zarray", ".zmetadata", "zarr.json")
SYSTEM = (Path("/dev/fd"), Path("/dev/pts"), Path("/proc"), Path("/sys"))


def address_of(path: Any) -> str | None:
    """Return the address of a path, such as ``https://...``, with both its slashes; None for a local path."""
    match = ADDRESS.fullmatch(str(path)) if isinstance(path, str | os.PathLike) else None
    return None if match is None else f"{match['known'] or match['other']}://{match['rest']}"


def regular_file(path: FileName, option: str = "") -> Path:
    """Return a local path that can be opened without waiting: a file, a folder, or a path that does not exist yet."""
    prefix = f"{option}: " if option else ""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{prefix}expected the path of a file, received {type(path).__name__}; pass a str or a Path")
    text = os.path.expanduser(os.fspath(path))
    if not text or "\0" in text:
        raise InputError(f"{prefix}expected the path of a file, received {text!r}; check the path")
    if text in STANDARD_INPUT:
        raise InputError(
            f"{prefix}expected a regular file, received {path}, the standard input; write it to a file first"
        )
    if address_of(text):
        raise InputError(f"{prefix}expected a local file, received the address {address_of(text)}; download it first")
    try:
        mode = os.stat(text).st_mode
    except OSError:
        return Path(text)
    kind = SPECIAL.get(stat.S_IFMT(mode))
    if kind is not None:
        raise InputError(f"{prefix}expected a regular file, received {path}, which is {kind}; write it to a file first")
    return Path(text)


def expand_paths(path: Any) -> list[str]:
    """Return the local paths and addresses of a path, a pattern or a list of these, sorted within a pattern.

    An existing file takes precedence over a pattern: ``tas[1].nc`` is that file if it exists.
    """
    if isinstance(path, Iterable) and not isinstance(path, str | bytes | os.PathLike):
        names = [name for entry in path for name in expand_paths(entry)]
        if not names:
            raise InputError("expected at least one file, received an empty list; check how it was made")
        return list(dict.fromkeys(names))
    address = address_of(path)
    if address is not None:
        return [address]
    text = str(regular_file(path))
    if os.path.exists(text):
        return [text]
    if any(mark in text for mark in PATTERN):
        matches = sorted(glob(text, recursive=True))
        if not matches:
            raise InputError(f"expected files that match {text}, received none; check the pattern")
        return [str(regular_file(name)) for name in matches]
    raise InputError(f"expected an existing file, received {text}; check the path")


def input_name(path: Any) -> str:
    """Return the name of an input for messages: as typed; for a list the first name and the number of others."""
    if isinstance(path, str | os.PathLike):
        return address_of(path) or str(path)
    paths = list(path)
    return f"{input_name(paths[0])} and {len(paths) - 1} more" if len(paths) > 1 else input_name(paths[0])


def raise_file_limit(files: int) -> None:
    """Raise the limit of open files of this process to ``files``, as far as the system allows."""
    try:
        import resource
    except ImportError:  # systems without such limits
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = files + SPARE if hard == resource.RLIM_INFINITY else min(files + SPARE, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def check_target(
    path: str | Path, overwrite: bool = False, inputs: Iterable[Any] = (), remedy: str = OVERWRITE
) -> Path:
    """Return the path of an output that may be written; ``remedy`` names the way to replace an existing one."""
    target = plain_path(path)
    if target.is_dir():
        raise OutputError(f"expected a file name for the output, received the folder {target}; add a name")
    require_free(target, overwrite, inputs, remedy, path)
    return target


def check_netcdf(
    path: str | Path, overwrite: bool = False, inputs: Iterable[Any] = (), remedy: str = OVERWRITE
) -> Path:
    """Return the path of a NetCDF file that may be written."""
    suffix = Path(path).suffix.lower()
    if suffix in FOREIGN:
        raise OutputError(
            f"expected the name of a NetCDF file such as fine.nc, received {path} with {suffix}; {FOREIGN[suffix]}"
        )
    return check_target(path, overwrite, inputs, remedy)


def plain_path(path: str | Path) -> Path:
    """Return the path of an output in an existing folder; for a link, the path of its target."""
    text = str(path)
    address = address_of(text)
    if address is not None:
        raise OutputError(f"expected a local file for the output, received the address {address}; write here, copy it")
    if text in ("-", ""):
        raise OutputError(f"expected a file name for the output, received {text!r}; give a name such as fine.nc")
    target = Path(path).expanduser()
    _require_plain_folder(target.parent)
    if target.is_symlink():
        # The result is written to the target of the link, which is kept.
        target = target.resolve()
        _require_plain_folder(target.parent)
    with suppress(OSError):
        kind = SPECIAL.get(stat.S_IFMT(target.stat().st_mode))
        if kind is not None:
            raise OutputError(f"expected a regular file for the output, received {path}, {kind}; choose another")
    return target


def _require_plain_folder(folder: Path) -> None:
    require_folder(folder)
    resolved = folder.resolve()
    if resolved == Path("/dev") or any(resolved.is_relative_to(system) for system in SYSTEM):
        raise OutputError(f"expected a folder of files for the output, received {folder} of the system; choose another")


def require_folder(folder: Path) -> None:
    """Raise an OutputError if the folder of an output does not exist."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder for the output, received the file {folder}; choose another")
    if not folder.is_dir():
        raise OutputError(f"expected an existing folder for the output, received {folder}; create it first")


def require_free(
    target: Path,
    overwrite: bool,
    inputs: Iterable[Any],
    remedy: str = OVERWRITE,
    original_path: str | Path | None = None,
) -> None:
    """Raise an OutputError if the output is an input, exists and may not be replaced, or cannot be written.

    ``original_path`` is the original name if it is a link.
    """
    # The temporary name is longer.
    longest = os.pathconf(target.parent, "PC_NAME_MAX")
    if len(os.fsencode(scratch_name(target).name)) > longest:
        raise OutputError(f"expected a name of at most {longest - 40} bytes, received {target.name[:9]}...; shorten it")
    require_no_input(target, inputs)
    if target.exists() and not overwrite:
        raise OutputError(f"expected a new file, received {original_path or target} that exists; {remedy}")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"expected a writable folder for the output, received {target.parent}; choose another")


def find_named_files(content: Any) -> list[str]:
    """Return the files and stores named by any text within nested mappings and lists, also by patterns."""
    if isinstance(content, Mapping):
        return find_named_files(list(content.values()))
    if isinstance(content, list | tuple):
        return [name for item in content for name in find_named_files(item)]
    if not isinstance(content, str) or not content or "\n" in content or "\0" in content:
        return []
    with suppress(OSError):
        path = Path(content).expanduser()
        if path.exists():
            return [str(path)]
        return glob(str(path), recursive=True) if any(mark in content for mark in "*?[") else []
    return []


def require_no_input(target: Path, inputs: Iterable[Any]) -> None:
    """Raise an OutputError if an output is an input, by whatever name, or contains it, or is inside it."""
    target_path = target.resolve()
    for source in inputs:
        name = Path(str(source)).expanduser() if source else None
        # A variable may have the name of a folder that is not a store.
        if name is None or not name.exists() or (name.is_dir() and not any((name / mark).exists() for mark in STORES)):
            continue
        input_path = name.resolve()
        is_nested = input_path == target_path or input_path in target_path.parents or target_path in input_path.parents
        if is_nested or (target.exists() and os.path.samefile(name, target)):
            raise OutputError(f"expected an output other than the input, received {target} for both; choose another")


@lru_cache(maxsize=1)
def this_host() -> str:
    """Return an identifier, without dots, of this machine or container among those that share a folder.

    Two containers may have the same name and the same process numbers: these are unique only within one boot of a
    machine and one process namespace.
    """
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
    space = ""
    with suppress(OSError):
        space = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    return f"{name}-{hashlib.sha256(space.encode()).hexdigest()[:8]}"


def scratch_name(target: Path, kind: str = "part") -> Path:
    """Return a name next to ``target`` that no other run uses; it names the process and machine that write it."""
    return target.with_name(f".{target.name}.{this_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}")


def flush(path: Path) -> None:
    """Flush a path to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a store or a file, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sources_of(*objects: Any) -> tuple[str, ...]:
    """Return the files that xarray objects were opened from; variables keep them through selections."""
    paths: dict[str, None] = {}
    for obj in objects:
        variables = obj.variables if hasattr(type(obj), "variables") else obj.coords
        for encoding in (obj.encoding, *(variable.encoding for variable in variables.values())):
            names = (encoding.get("source"), *encoding.get(SOURCES, ()))
            paths.update(dict.fromkeys(str(name) for name in names if name))
    return tuple(paths)
