"""Real processes, killed and stopped: no half file under a final name, and after --resume the data of a quiet run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import xarray as xr
from command import command
from run_process import ROOT, at_work, contents, ended, killed, raw, started, when
from sample_fields import field_on, world

from downscale.io.paths import this_host
from downscale.runs.manifest import manifest_path

STEPS, BLOCK = 360, 30
RUN = ("apply", "in.nc", "out.nc", "--factor", 8, "--blocks", BLOCK)
FOLDER = ".out.nc.blocks"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input, and the output of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    field_on(world(), STEPS, missing=0.05).to_netcdf(folder / "in.nc")
    assert command("apply", folder / "in.nc", folder / "out.nc", "--factor", 8).status == 0
    return folder


@pytest.fixture
def here(quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    os.link(quiet / "in.nc", "in.nc")
    return tmp_path


def seals(folder: Path) -> list[Path]:
    """The seals of finished blocks."""
    return list(folder.glob(f"{FOLDER}/.*.manifest"))


def assert_no_half_file(folder: Path, quiet: Path) -> None:
    """Whatever has a final name is whole, and holds what it should."""
    whole = raw(quiet / "out.nc")
    if (folder / "out.nc").exists():
        assert raw(folder / "out.nc") == whole
    size = len(whole["tas"][len("float64") :]) // (STEPS // BLOCK)
    for index, path in enumerate(sorted((folder / FOLDER).glob("out_*.nc"))):
        start = (int(path.stem.split("_")[1][:4]) - 2000) * 365 + _day_of_year(path) - 1
        assert start % BLOCK == 0, (index, path)
        at = len("float64") + start // BLOCK * size
        assert raw(path)["tas"][len("float64") :] == whole["tas"][at : at + size]


def _day_of_year(path: Path) -> int:
    with xr.open_dataset(path) as ds:
        return int(ds.time[0].dt.dayofyear)


def assert_done(folder: Path, quiet: Path, *how: object) -> None:
    """A last run with --resume comes to its end, with the data of the quiet one and nothing else beside them."""
    status, out, err = ended(started(folder, *RUN, "--resume", *how))
    assert (status, err) == (0, ""), out + err
    assert raw(folder / "out.nc") == raw(quiet / "out.nc")
    assert contents(folder) == {"in.nc", "out.nc", ".out.nc.manifest"}
    assert command("check", "in.nc", "out.nc").status == 0


@pytest.mark.slow
def test_killed_at_ten_moments(here, quiet):
    """SIGKILL; some time after the first file of a run, after a block or two of it, and while the blocks are merged."""
    draw = random.Random(0)
    found = []
    for moment in range(10):
        old, least = set(here.rglob(".*.part")), len(seals(here)) + int(moment >= 4)
        process = started(here, *RUN, "--resume")
        if moment < 8:
            assert when(process, lambda old=old: bool(set(here.rglob(".*.part")) - old))
            assert when(process, lambda least=least: len(seals(here)) >= least)
        else:
            assert when(process, lambda old=old: bool(set(here.glob(".out.nc.*.part")) - old))
        time.sleep(draw.uniform(0, 0.2 if moment < 8 else 0.03))
        status, _, err = killed(process)
        assert status == -signal.SIGKILL, err
        assert_no_half_file(here, quiet)
        found.append(len(seals(here)))
    assert 0 <= found[0] < found[7] < STEPS // BLOCK
    assert found[-1] == STEPS // BLOCK or (here / "out.nc").exists()
    assert_done(here, quiet)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_run_cleanly(here, quiet, number):
    process = started(here, *RUN)
    assert when(process, lambda: len(seals(here)) >= 2)
    status, out, err = killed(process, number)
    done = len(seals(here))
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert (status, out) == (128 + number, "")
    assert err == f"downscale: {word}; {done} of {STEPS // BLOCK} blocks are done; run again with --resume\n"
    assert not list(here.rglob("*.part"))
    assert_no_half_file(here, quiet)
    before = {path: path.stat().st_mtime_ns for path in here.glob(f"{FOLDER}/out_*.nc")}
    assert len(before) == done
    ended(started(here, *RUN, "--resume", "--block", 0))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_done(here, quiet)


def test_a_signal_ends_a_plain_run_cleanly(here):
    process = started(here, *RUN[:5])
    assert when(process, at_work(here))
    status, _, err = killed(process, signal.SIGTERM)
    assert (status, err) == (128 + signal.SIGTERM, "downscale: terminated; nothing incomplete was left behind\n")
    assert contents(here) == {"in.nc"}


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes of a cluster: those that read the input."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for child in children:
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_workers_killed_in_the_middle_of_blocks(here, quiet):
    """A block whose worker is lost is made by another; the run comes to its end by itself."""
    draw = random.Random(1)
    process = started(here, *RUN, "--cluster", "local", "--workers", 2)
    kills = 0
    for _ in range(3):
        if when(process, at_work(here)):
            time.sleep(draw.uniform(0, 0.3))
            writers = {int(path.name.rsplit(".", 2)[1].split("-")[-2]) for path in here.rglob(".*.nc.*.part")}
            lost = [worker for worker in workers_of(process) if worker.pid in writers]
            if lost:
                lost[0].kill()
                kills += 1
        time.sleep(0.5)
    status, out, err = ended(process)
    assert status == 0, err
    assert kills
    assert raw(here / "out.nc") == raw(quiet / "out.nc")
    assert contents(here) == {"in.nc", "out.nc", ".out.nc.manifest"}
    assert "passed" in out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_cluster_run_stopped_as_a_whole(here, quiet, number):
    process = started(here, *RUN, "--cluster", "local", "--workers", 2)
    assert when(process, lambda: len(seals(here)) >= 2)
    workers = workers_of(process)
    status, _, err = killed(process, number)
    if number == signal.SIGTERM:
        assert status == 128 + number
        assert err.startswith("downscale: terminated; ")
        assert err.endswith("blocks are done; run again with --resume\n")
        assert not list(here.rglob("*.part"))
    psutil.wait_procs(workers, timeout=20)
    assert not [worker for worker in workers if worker.is_running()]
    assert_no_half_file(here, quiet)
    assert_done(here, quiet)


@pytest.mark.slow
def test_a_full_disk(here, quiet):
    """A file may grow to 60 kB only: a block fails as on a full disk, in one line; later the run goes on."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    status, out, err = ended(started(here, *RUN, before=limit))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "expected to write" in err
    assert "0 of 12 blocks are done; run again with --resume" in err
    assert contents(here) <= {"in.nc", FOLDER}
    assert_done(here, quiet)


@pytest.mark.slow
def test_a_small_disk(here, quiet, tmp_path_factory):
    """A file system of a few megabytes: full after some blocks, larger afterwards."""
    disk = tmp_path_factory.mktemp("disk")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", disk], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    try:
        os.chdir(disk)
        (disk / "in.nc").write_bytes((here / "in.nc").read_bytes())
        status, _, err = ended(started(disk, *RUN))
        assert status == 2
        assert len(err.splitlines()) == 1
        assert "No space left on device" in err
        done = len(seals(disk))
        assert 0 < done < STEPS // BLOCK
        assert f"{done} of 12 blocks are done" in err
        assert not list(disk.rglob("*.part"))
        assert_no_half_file(disk, quiet)
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        assert_done(disk, quiet)
    finally:
        os.chdir(here)
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_may_not_be_written(here, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    os.link("in.nc", folder / "in.nc")
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            # The superuser may write anywhere; a file system that is read-only stops him, too.
            made = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"no read-only folder can be made here: {made.stderr.strip()}")
        said = command("apply", tmp_path / "in.nc", folder / "out.nc", "--factor", 2, "--blocks", 100)
        assert said.status == 2
        assert "expected a writable folder for the output" in said.complaint
        assert not list(folder.glob("*out*"))
    finally:
        subprocess.run(["umount", folder], capture_output=True)
        folder.chmod(0o755)


def test_what_is_left_of_a_killed_process_goes(here):
    """Temporary files of living processes and of other machines stay, those of dead ones of the same output go."""
    host = this_host()
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout.strip()
    for pid, name in ((dead, "out.nc"), (os.getpid(), "out.nc"), (dead, "other.nc")):
        Path(f".{name}.{host}-{pid}-0123abcd.part").touch()
    Path(f".out.nc.elsewhere-{dead}-0123abcd.part").touch()
    Path(f"{manifest_path(Path('out.nc')).name}.x").touch()
    assert command("apply", "in.nc", "out.nc", "--factor", 2, "--resume").status == 0
    left = {name for name in os.listdir() if name.endswith(".part")}
    living = f".out.nc.{host}-{os.getpid()}-0123abcd.part"
    assert left == {living, f".other.nc.{host}-{dead}-0123abcd.part", f".out.nc.elsewhere-{dead}-0123abcd.part"}


@pytest.mark.slow
def test_signals_at_random_moments(tmp_path):
    """Of each kind of run some: ended within five seconds, one line, nothing left, and resumed to the same values."""
    # tests/test_train_fit.py stops trainings.
    line = [sys.executable, str(ROOT / "benchmarks" / "interrupts.py"), "--times", "5", "--steps", "80", "--seed", "1"]
    line += ["--kinds", "plain,zarr,blocks,cluster"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| equal") == 4
