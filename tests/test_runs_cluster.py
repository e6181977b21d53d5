"""Blocks on clusters: what a recipe may say of one, what is sent to it, the same bits, and schedulers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import command
from run_process import ROOT, contents, ended, raw, started, when
from sample_fields import field_on, world

from downscale.errors import InputError, OptionError
from downscale.runs import clusters
from downscale.runs.block_run import BlockTask, compute_on_worker
from downscale.runs.clusters import profile_of
from downscale.runs.recipe import Dask, parse_recipe

LEAST: dict[str, Any] = {"input": {"path": "in.nc"}, "downscale": {"factor": 2}, "output": {"path": "out.nc"}}


def dask_of(**settings: Any) -> Dask:
    return parse_recipe({**LEAST, "dask": {"profiles": {"mine": {"cluster": settings}}}}).dask


@pytest.mark.parametrize(
    ("dask", "match"),
    [
        ({"use": "x"}, r"key 'dask': expected use to be the name of a profile \(there is none\)"),
        ({"use": "x", "profiles": {"y": {"scheduler_address": "tcp://a:1"}}}, r"name of a profile \('y'\), received"),
        ({"profiles": {"y": {}}}, "key 'dask.profiles.y': expected either cluster or scheduler_address"),
        ({"profiles": {"y": {"clutser": {}}}}, r"received 'dask.profiles.y.clutser'; did you mean 'cluster'\?"),
        ({"profiles": {"y": 3}}, "key 'dask.profiles.y': expected the keys 'cluster', 'scheduler_address', received 3"),
        ({"profile": {}}, r"received 'dask.profile'; did you mean 'profiles'\?"),
    ],
)
def test_the_block_of_a_cluster_is_checked(dask, match):
    with pytest.raises(OptionError, match=match):
        parse_recipe({**LEAST, "dask": dask})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({}, "expected the type of a cluster among 'distributed.LocalCluster', .*, received 'None'"),
        ({"type": "os.system"}, "expected the type of a cluster among .*, received 'os.system'"),
        ({"type": "my.module.SLURMCluster"}, "received 'my.module.SLURMCluster'"),
        ({"type": "distributed.SSHCluster"}, "received 'distributed.SSHCluster'"),
        ({"type": "dask_jobqueue.SLURMCluster", "job_script_prologue": ["rm -r ."]}, "received 'job_script_prologue'"),
        ({"type": "dask_jobqueue.SLURMCluster", "python": "/tmp/python"}, "received 'python'; put code to run"),
        ({"type": "distributed.LocalCluster", "preload": "/tmp/x.py"}, "received 'preload'; put code to run"),
        ({"type": "dask_jobqueue.PBSCluster", "queue": "a\nrm -r ."}, "expected one line for 'queue', received"),
        ({"type": "dask_jobqueue.PBSCluster", "job_extra_directives": ["-x", "a\rb"]}, "one line for 'job_extra"),
        ({"type": "dask_jobqueue.PBSCluster", "scheduler_options": {"preload": "x"}}, "scheduler_options: expected"),
    ],
)
def test_no_recipe_says_what_code_runs(settings, match):
    with pytest.raises(OptionError, match=match):
        profile_of("mine", dask_of(**settings))


def test_clusters_are_found_by_name_kind_and_address():
    big = {"type": "dask_jobqueue.SLURMCluster", "cores": 4, "memory": "8GB", "queue": "big"}
    dask = dask_of(**big)
    assert profile_of("mine", dask).cluster == profile_of("slurm", dask).cluster == big
    assert profile_of("pbs", dask).cluster == {"type": "dask_jobqueue.PBSCluster"}
    assert profile_of("local", dask).cluster == {"type": "distributed.LocalCluster"}
    assert profile_of("cuda", dask).cluster == {"type": "dask_cuda.LocalCUDACluster"}
    for address in ("tcp://node1:8786", "node1:8786", "10.0.0.1:8786", "tls://a:1"):
        assert profile_of(address, dask).scheduler_address == address
    assert profile_of(None, dask) is None
    with pytest.raises(OptionError, match=r"expected a cluster among 'mine', 'local', .*, received 'nowhere'"):
        profile_of("nowhere", dask)


@pytest.mark.parametrize("module", sorted({"dask_cuda", "dask_jobqueue"}))
def test_a_missing_package_is_one_line(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    wanted = profile_of("cuda" if module == "dask_cuda" else "slurm", Dask())
    line = rf'expected the package {module}, received none; pip install "downscale-climate\[hpc\]"'
    with pytest.raises(InputError, match=line), clusters.client_of(wanted, 1):
        pass


def test_a_job_script_says_what_the_profile_says():
    """The cluster itself needs a batch system; its job script does not."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    dask = dask_of(
        type="dask_jobqueue.SLURMCluster", cores=4, processes=4, memory="8GB", queue="big", walltime="01:00:00",
        account="climate", job_extra_directives=["--exclusive"],
    )  # fmt: skip
    own = {key: value for key, value in profile_of("slurm", dask).cluster.items() if key != "type"}
    there = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with jobqueue.SLURMCluster(**own, scheduler_options=there) as cluster:
        script = cluster.job_script()
    for words in ("-p big", "-A climate", "-t 01:00:00", "--exclusive", "--nworkers 4", "--nthreads 1"):
        assert words in script


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clusters, "WAIT_SECONDS", 0.5)
    field_on(world(), 4).to_netcdf("in.nc")
    said = command("apply", "in.nc", "out.nc", "--factor", 2, "--cluster", "tcp://127.0.0.1:9")
    assert said.status == 2
    assert "expected a scheduler at tcp://127.0.0.1:9, received no answer" in said.err.splitlines()[-1]
    assert contents(tmp_path) == {"in.nc"}


class Done:
    """A piece of work on a cluster that is none."""

    def __init__(self, work: BlockTask) -> None:
        self.work = work

    def result(self) -> dict[str, Any]:
        return {"start": self.work.start}

    def release(self) -> None:
        """The cluster may forget the result."""


class Counting:
    """A client that remembers how much it was sent, and how much of it was in flight at once."""

    status = "running"

    def __init__(self, workers: int) -> None:
        self.workers, self.sent, self.bytes, self.running, self.most = workers, 0, 0, 0, 0

    def scheduler_info(self, n_workers: int = 5) -> dict[str, Any]:
        return {"workers": dict.fromkeys(range(self.workers))}

    def submit(self, task: Any, work: BlockTask, **how: Any) -> Done:
        from distributed.protocol.pickle import dumps

        self.sent += 1
        self.bytes = max(self.bytes, len(dumps((task, work, how))))
        self.running += 1
        self.most = max(self.most, self.running)
        return Done(work)

    def cancel(self, futures: list[Any], **how: Any) -> None:
        assert not futures


@pytest.mark.parametrize("count", [1, 5, 200])
def test_one_small_message_a_block_and_few_in_flight(monkeypatch, count):
    """Tasks are as many as blocks; what is sent for each does not grow with the run."""
    client = Counting(3)

    def finished(of: Any, futures: list[Any]) -> set[Any]:
        of.running -= 1
        return {futures[-1]}

    monkeypatch.setattr(clusters, "wait_for_futures", finished)
    recipe = parse_recipe(LEAST).model_dump_json()
    works = [BlockTask(recipe, f"out_{i}.nc", "time", i, i + 1, count, 1, "f" * 64, True, True) for i in range(count)]
    told = []
    keys = [work.path for work in works]
    made = clusters.compute_on_cluster(client, compute_on_worker, works, keys, lambda: told.append(1))
    assert [one["start"] for one in made] == list(range(count))
    assert (client.sent, len(told)) == (count, count)
    assert client.most <= 3
    assert client.bytes < 4096


RECIPE = {
    "input": {"path": "in.nc"}, "downscale": {"factor": 4}, "output": {"path": "far.nc", "blocks": 20},
    "dask": {"use": "two", "profiles": {"two": {"cluster": {"type": "distributed.LocalCluster", "n_workers": 2}}}},
}  # fmt: skip


@pytest.mark.slow
def test_two_processes_make_the_same_bits(tmp_path, monkeypatch):
    """As a profile says, with relative names, and nothing left beside the output."""
    monkeypatch.chdir(tmp_path)
    field_on(world(), 90, missing=0.1).to_netcdf("in.nc")
    Path("r.yml").write_text(yaml.safe_dump(RECIPE))
    assert command("apply", "in.nc", "near.nc", "--factor", 4).status == 0
    status, out, err = ended(started(tmp_path, "run", "r.yml"))
    assert (status, err) == (0, "")
    assert "passed" in out
    assert raw(Path("far.nc")) == raw(Path("near.nc"))
    assert contents(tmp_path) == {"in.nc", "r.yml", "near.nc", "far.nc", ".far.nc.manifest"}


@pytest.mark.slow
def test_a_scheduler_that_dies(tmp_path, monkeypatch):
    """One line says how far the run came; --resume goes on without the cluster."""
    monkeypatch.chdir(tmp_path)
    field_on(world(), 360).to_netcdf("in.nc")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    line += ["--host", "127.0.0.1", "--scheduler-file", "s.json"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    scheduler = subprocess.Popen(line, **quiet)
    worker = None
    try:
        assert when(scheduler, lambda: Path("s.json").exists() and Path("s.json").read_text().endswith("}"))
        address = yaml.safe_load(Path("s.json").read_text())["address"]
        line = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        worker = subprocess.Popen([*line, "--no-nanny", "--death-timeout", "5"], **quiet)
        run = ("apply", "in.nc", "out.nc", "--factor", 8, "--blocks", 30)
        process = started(tmp_path, *run, "--cluster", address)
        assert when(process, lambda: len(list(tmp_path.glob(".out.nc.blocks/.*.manifest"))) >= 2)
        scheduler.send_signal(signal.SIGKILL)
        status, _, err = ended(process)
        assert status == 1
        assert "the scheduler of the cluster was lost" in err.splitlines()[-1]
        assert "of 12 blocks are done; run again with --resume" in err.splitlines()[-1]
    finally:
        for one in (worker, scheduler):
            if one is not None:
                one.kill()
                one.wait()
    said = command(*run, "--resume")
    assert said.status == 0
    assert "of 12 blocks of an earlier run, which verify" in said.out
    assert command("apply", "in.nc", "near.nc", "--factor", 8).status == 0
    assert raw(Path("out.nc")) == raw(Path("near.nc"))
