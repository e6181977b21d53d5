"""Odd and hostile input: bombs, control characters, damaged caches, counts below one; one line each, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from command import command
from refusals import north_america, refused

import downscale
from downscale.errors import LONGEST_MESSAGE, MOST_NAMES, DownscaleError, InputError, OptionError, listing, one_line
from downscale.io.config import DEEPEST, MOST_BYTES, read_yaml
from downscale.runs.clusters import profile_of
from downscale.runs.manifest import manifest_path, read_manifest

ESCAPE = "\x1b[31mred\x07"
RECIPE = {"input": {"path": "in.nc"}, "downscale": {"factor": 2}, "output": {"path": "out.nc"}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the real sample as in.nc."""
    monkeypatch.chdir(tmp_path)
    north_america().to_netcdf("in.nc")
    return tmp_path


def aliases(levels: int, width: int = 10) -> str:
    """YAML of a few lines that names ``width ** levels`` values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


BOMBS = {
    "aliases": (aliases(9), "aliases"),
    "merged keys": ("a: &a {x: &x [1, 2]}\n" + "\n".join(f"b{i}: &b{i} {{y: [*x, *x]}}" for i in range(3)), None),
    "nested": ("a: " + "[" * (2 * DEEPEST) + "]" * (2 * DEEPEST), "nesting"),
    "large": ("a: " + "x" * MOST_BYTES, "bytes"),
    "date": ("a: 2001-99-99", "YAML"),
    "key of a list": ("? [a, b]\n: c", "YAML"),
    "tag": ("a: !!python/object/apply:os.system ['true']", "YAML"),
    "alias to itself": ("a: &a [*a]", "YAML"),
    "binary": ("\x00\x01", "YAML"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_yaml_that_is_no_recipe_is_refused_at_once(kind: str, here: Path) -> None:
    text, words = BOMBS[kind]
    Path("bomb.yml").write_text(text, encoding="utf-8")
    if words is not None:
        refused(words, "run", "bomb.yml")
        with pytest.raises(InputError, match=words):
            read_yaml("bomb.yml")
    else:
        assert read_yaml("bomb.yml")["b2"] == {"y": [[1, 2], [1, 2]]}


def test_aliases_that_a_person_writes_are_read(here: Path) -> None:
    Path("r.yml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_yaml("r.yml") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("kind", [DownscaleError, InputError, OptionError])
def test_messages_are_one_printable_line_of_bounded_length(kind: type[DownscaleError]) -> None:
    said = str(kind(f"expected tas,\n received {ESCAPE} {'x' * 5000}; pass tas"))
    assert said.isprintable()
    assert len(said) <= LONGEST_MESSAGE
    assert said.startswith("expected tas, received \\x1b[31mred\\x07")
    assert said.endswith("; pass tas")


def test_long_lists_of_names_are_counted() -> None:
    assert listing(range(MOST_NAMES + 1)).endswith(str(MOST_NAMES))
    assert listing(range(1000)).endswith(f"{MOST_NAMES - 1}, and {1000 - MOST_NAMES} more")
    assert one_line("a  b") == "a  b"


def test_control_characters_of_names_reach_neither_terminal_nor_history(here: Path) -> None:
    name = f"in{ESCAPE}.nc"
    Path("in.nc").rename(name)
    said = command("apply", name, "out.nc", "--factor", "2", "--vars", ESCAPE)
    assert said.status == 2
    assert said.complaint.isprintable()
    said = command("apply", name, "out.nc", "--factor", "2")
    assert said.status == 0, said.err
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())
    with xr.open_dataset("out.nc") as fine:
        assert all(line.isprintable() for line in fine.attrs["history"].splitlines())
        assert fine.attrs["downscale_settings"].isprintable()


@pytest.mark.parametrize("count", [-1, 0, 1.5, "many"])
@pytest.mark.parametrize("key", ["n_workers", "threads_per_worker"])
def test_counts_of_a_cluster_below_one_are_refused(key: str, count: Any, here: Path) -> None:
    cluster = {"type": "distributed.LocalCluster", key: count}
    content = {**RECIPE, "dask": {"use": "mine", "profiles": {"mine": {"cluster": cluster}}}}
    Path("r.yml").write_text(yaml.safe_dump(content))
    refused(key, "run", "r.yml")


def test_settings_of_a_scheduler_that_are_no_keys_are_refused() -> None:
    from downscale.runs.recipe import Dask

    cluster = {"type": "distributed.LocalCluster", "scheduler_options": None}
    with pytest.raises(OptionError, match="scheduler_options"):
        profile_of("mine", Dask.model_validate({"profiles": {"mine": {"cluster": cluster}}}))


@pytest.mark.parametrize("strength", ["nan", "inf", "-1", "1e300"])
def test_strengths_of_smoothing_that_no_kernel_takes_are_refused(strength: str, here: Path) -> None:
    refused("strength of smoothing", "repair", "rain", "--smooth", strength, "--out", "m.safetensors")


@pytest.mark.parametrize(
    "arguments",
    [("sobolev", "--factor", "2000"), ("in.nc", "--factor", "2000"), ("transposed:90000,2",), ("transposed:5,3000",)],
)
def test_kernels_too_large_to_inspect_are_refused(arguments: tuple[str, ...], here: Path) -> None:
    refused("at most", "inspect", *arguments)


def test_a_seal_nested_beyond_all_bounds_seals_nothing(tmp_path: Path) -> None:
    file = tmp_path / "block.nc"
    file.write_bytes(b"x")
    manifest_path(file).write_text("[" * 200_000)
    assert read_manifest(file, "request", (0, 1)) is None


LOOP = """
import numpy as np
from downscale.kernels.compiled import compile_loop

def total(values):
    found = 0.0
    for value in values:
        found += value
    return found

loop = compile_loop(total)
assert loop(np.arange(4.0)) == 6.0
print(len(loop.stats.cache_hits))
"""


def hits(script: Path, cache: Path) -> str:
    """How many compiled loops a fresh process finds in its cache."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [b"", b"\x80\x05\x95", b"no pickle at all", None])
def test_damaged_caches_of_compiled_loops_are_made_anew(suffix: str, damage: bytes | None, tmp_path: Path) -> None:
    script, cache = tmp_path / "loop.py", tmp_path / "cache"
    script.write_text(LOOP)
    assert hits(script, cache) == "0"
    assert hits(script, cache) == "1"
    files = [file for file in cache.rglob(f"*{suffix}") if "total" in file.name]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:-20] if damage is None else damage)
    assert hits(script, cache) == "0"
    assert hits(script, cache) == "1"


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(FULL, ""), ("", FULL)], ids=["full", "full after import"])
def test_loops_are_compiled_where_the_cache_cannot_be_written(before: str, after: str, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(
        before + LOOP.replace("compile_loop(total)", f"compile_loop(total); {after}") + "loop(np.arange(4))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"
    assert done.stderr.count("set NUMBA_CACHE_DIR to a folder with space") == 1


def test_attributes_of_any_length_reach_no_message(here: Path) -> None:
    ds = north_america()
    ds = ds.rename(tas="t" * 200).expand_dims({f"d{i}": [0] for i in range(60)})
    with pytest.raises(DownscaleError) as error:
        ds.downscale(2, data_vars="tas")
    assert len(str(error.value)) <= LONGEST_MESSAGE


def test_values_of_an_unknown_option_are_counted() -> None:
    ds = north_america().assign({f"v{i}": ((), np.float32(i)) for i in range(300)})
    with pytest.raises(DownscaleError) as error:
        downscale.downscale(ds, 2, data_vars=[f"w{i}" for i in range(3000)])
    assert len(str(error.value)) <= LONGEST_MESSAGE
