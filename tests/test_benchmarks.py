"""The speed benchmarks run to their end in their quick form, print their rows and leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.slow
COMMANDS = {
    "downscale apply", "cdo remapbil", "cdo remapcon", "xr.interp, to_netcdf", "xarray-regrid linear, to_netcdf",
    "xarray-regrid conservative, to_netcdf", "the bytes alone", "the bytes alone, until they lie on the disk",
    "downscale apply, deflate 1", "cdo remapbil, deflate 1", "to_netcdf(zlib=True, complevel=1) alone",
    "downscale check", "downscale apply --dry-run", "imports alone",
}  # fmt: skip
BUDGETS = {
    "operator: speed to copying its output": ">= 0.8",
    "operator: times faster than F.conv_transpose2d": ">= 50",
    "bounds on rain: time they add to that of the operator": "<= 2",
    "ds.downscale: speed to torch.clone of its result": ">= 0.7",
    "command: time to cdo remapbil": "<= 0.5",
    "command: time to cdo remapcon": "<= 0.5",
    "command: time to xarray-regrid linear, to_netcdf": "<= 0.3",
    "command, deflate 1: times faster than to_netcdf(zlib) alone": ">= 4",
}
# What bounds add is a difference of two times, which noise may turn below zero on a few maps.
NUMBER = re.compile(r"-?\d+\.\d+ \(-?\d+\.\d+ to -?\d+\.\d+\)")


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the lines of all tables by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def run(script: str, tmp_path: Path, *arguments: str) -> str:
    """Run a script from a folder of its own; return what it put into the page."""
    kept, used = tmp_path / "kept", tmp_path / "used"
    kept.mkdir(exist_ok=True)
    used.mkdir()
    page = kept / "page.md"
    line = [sys.executable, str(FOLDER / script), "--quick", "--folder", str(used), "--write", str(page), *arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    done = subprocess.run(line, cwd=kept, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not list(used.iterdir())
    text = page.read_text()
    # What is printed is what is written.
    assert rows_of(done.stdout).items() <= rows_of(text).items()
    return text


@pytest.mark.slow
def test_speed_prints_every_budget_and_every_contender(tmp_path):
    text = run("speed.py", tmp_path)
    found = rows_of(text)
    assert found.keys() >= COMMANDS | BUDGETS.keys()
    for name, budget in BUDGETS.items():
        measured, wanted, kept = found[name]
        assert wanted == budget
        assert (kept == "-") if measured == "-" else NUMBER.fullmatch(measured) and kept in ("yes", "NO")
    for name in ("operator", "law and check", "ds.downscale(4)", "lazy, law and check"):
        assert re.fullmatch(r"\d.* m?s", found[name][0])
    for name in COMMANDS:
        seconds, _, peak, note = found[name]
        # Whoever took no time says why.
        assert (note.startswith(("skipped: ", "failed: ")) and seconds == peak == "-") or peak.endswith(" MB"), name
    ours = [name for name in COMMANDS if name.startswith(("downscale", "imports", "the bytes", "to_netcdf"))]
    assert not [name for name in ours if found[name][0] == "-"]


@pytest.mark.slow
def test_scaling_prints_and_draws_each_way_to_grow(tmp_path):
    picture = tmp_path / "kept" / "images" / "growth.png"
    text = run("scaling.py", tmp_path, "--plot", str(picture))
    lines = [line for line in text.splitlines() if line.startswith("| more maps, file to file ")]
    assert [line.split("|")[2].strip() for line in lines] == ["1 thread", "2 threads", "1 process", "2 processes"]
    assert {"larger maps, computed only", "larger factor, computed only"} <= rows_of(text).keys()
    assert {"one process, one thread", "local cluster, two processes"} <= rows_of(text).keys()
    assert picture.read_bytes()[1:4] == b"PNG"
    assert "](images/growth.png)" in text


def test_memory_prints_and_draws_what_it_saw_from_outside(tmp_path):
    picture = tmp_path / "kept" / "memory.png"
    text = run("memory.py", tmp_path, "--plot", str(picture), "--max-memory", "3GB")
    found = rows_of(text)
    most = float(found["largest resident memory"][0].split()[0].replace(",", ""))
    # No Python with these libraries is smaller, and the result is a tenth of a gigabyte.
    assert 100 < most < 3000
    assert re.fullmatch(r"[\d,]+ MB \(\d+\.\d+ of what was\)", found["the plan's peak"][0])
    assert picture.read_bytes()[1:4] == b"PNG"


def test_training_prints_each_way_up_beside_the_transposed_one(tmp_path):
    found = rows_of(run("training.py", tmp_path, "--device", "cpu"))
    assert {"transposed", "conservative", "resize", "shuffle"} <= found.keys()
    for way in ("transposed", "conservative", "resize", "shuffle"):
        training, beside, use, beside_use = found[way]
        assert float(training) > 0
        assert float(use) > 0
        for ratio in (beside, beside_use):
            assert ratio == "-" if way == "transposed" else NUMBER.fullmatch(ratio)


def test_a_section_is_replaced_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from measure import write_section

    page = tmp_path / "page.md"
    write_section(page, "one", "python one.py", "first")
    write_section(page, "two", "python two.py", "second")
    whole = page.read_text()
    write_section(page, "one", "python one.py", "first")
    assert page.read_text() == whole
    write_section(page, "one", "python one.py", "third")
    text = page.read_text()
    assert text == whole.replace("first", "third")
    assert text.startswith("# ")
    assert text.index("third") < text.index("second")


def test_a_ratio_is_of_medians_and_shows_its_spread(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from measure import Taken, speed, verdict

    slow, fast = Taken([4.0, 9.0, 5.0]), Taken([2.0, 1.0, 4.0])
    assert speed(slow, fast) == "2.50 (1.25 to 9.00)"
    assert verdict(speed(slow, fast), least=2.6) == ("2.50 (1.25 to 9.00)", ">= 2.6", "NO")
    assert verdict(speed(slow, fast), most=2.5) == ("2.50 (1.25 to 9.00)", "<= 2.5", "yes")
    assert verdict(speed(slow, Taken(note="skipped: no")), least=1) == ("-", ">= 1", "-")


def test_growth_is_a_fixed_cost_and_so_much_a_value(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from measure import Taken
    from scaling import growth_table, line_through

    curve = [(n, Taken([0.25 + 3e-9 * n])) for n in (1_000_000, 5_000_000, 100_000_000)]
    assert line_through(curve) == pytest.approx((0.25, 3e-9))
    row = rows_of(growth_table({("maps", "1 thread"): curve}))["maps"]
    assert row[-2:] == ["0.25 s + 3.00 ns", "0 %"]
    curve[1] = (5_000_000, Taken([0.4]))
    assert int(rows_of(growth_table({("maps", "1 thread"): curve}))["maps"][-1].split()[0]) > 5
