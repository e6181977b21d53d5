"""The scripts for batch systems, under stand-ins for sbatch, srun and qsub that run the jobs at once, one by one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command import command
from run_process import ROOT, contents, raw
from sample_fields import field_on, world

SBATCH = """#!/bin/bash
echo "sbatch $*" >> "$LOG"
jobs=""
while [[ "$1" == --* ]]; do
  case "$1" in --array=*) range="${1#--array=}"; range="${range%\\%*}"; jobs=$(seq "${range%-*}" "${range#*-}");; esac
  shift
done
if [ -z "$jobs" ]; then bash "$@" >> "$LOG" 2>&1 || exit 1; fi
for job in $jobs; do SLURM_ARRAY_TASK_ID=$job bash "$@" >> "$LOG" 2>&1 || exit 1; done
echo "17;cluster"
"""
QSUB = """#!/bin/bash
echo "qsub $*" >> "$LOG"
script=$(cat)
jobs=""
while [ $# -gt 0 ]; do
  case "$1" in -J) jobs=$(seq "${2%-*}" "${2#*-}"); shift;; esac
  shift
done
if [ -z "$jobs" ]; then bash -c "$script" >> "$LOG" 2>&1 || exit 1; fi
for job in $jobs; do PBS_ARRAY_INDEX=$job bash -c "$script" >> "$LOG" 2>&1 || exit 1; done
echo 17.cluster
"""
STUBS = {"sbatch": SBATCH, "qsub": QSUB, "srun": '#!/bin/bash\nexec "$@"\n'}


@pytest.mark.slow
@pytest.mark.parametrize(("system", "submits"), [("slurm", "sbatch"), ("pbs", "qsub")])
def test_a_job_array_then_a_merge(tmp_path, monkeypatch, system, submits):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    monkeypatch.chdir(tmp_path)
    field_on(world(), 21).to_netcdf("in.nc")
    content = {
        "input": {"path": "in.nc"}, "downscale": {"factor": 2},
        "output": {"path": "out.nc", "blocks": "7 days", "report": "r.html"},
    }  # fmt: skip
    Path("r.yml").write_text(yaml.safe_dump(content))
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {**STUBS, "downscale": f'#!/bin/bash\nexec {sys.executable} -m downscale "$@"\n'}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    before = contents(tmp_path)
    environment = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "SLURM_CPUS_PER_TASK": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    line = ["bash", str(ROOT / "recipes" / system / "submit.sh"), "r.yml"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=200)
    log = Path("log").read_text()
    assert done.returncode == 0, done.stderr + log
    submitted = [one for one in log.splitlines() if one.startswith(submits)]
    assert len(submitted) == 2
    assert "0-2" in submitted[0]
    assert "afterok:17" in submitted[1]
    assert log.count("wrote .out.nc.blocks/out_2000") + log.count("wrote out_2000") == 3, log
    assert "kept 3 of 3 blocks of an earlier run, which verify" in log
    assert contents(tmp_path) == before | {"log", "out.nc", ".out.nc.manifest", "r.html", "r.json"}
    assert command("apply", "in.nc", "whole.nc", "--factor", 2).status == 0
    assert raw(Path("out.nc")) == raw(Path("whole.nc"))
