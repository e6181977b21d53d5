"""The same bits on a cluster of processes as in this one, and a file that can be certified there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import downscale
from dask.distributed import Client, LocalCluster
from sample_fields import field_on, relief_on, same_bits, world


def main():
    ds = field_on(world(), 4, missing=0.1)
    penalty = downscale.TerrainPenalty(1e-6, iterations=2)
    options = {"orog": relief_on(world()), "lapse_rate": -0.006, "terrain_penalty": penalty}
    here = ds.downscale(2, **options)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        lazy = ds.chunk(time=1, lat=5).downscale(2, **options)
        there = lazy.compute()
        reports = [downscale.to_netcdf(lazy, sys.argv[1], coarse=ds, overwrite=True) for _ in range(3)]
    assert same_bits(here.tas, there.tas)
    assert all(report.passed for report in reports)
    assert same_bits(downscale.open_dataset(sys.argv[1]).tas, here.tas)
    print("done")


if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_cluster_of_processes(tmp_path):
    """Its workers keep files open: the certificate could not be written where they had read the file."""
    tests = Path(__file__).parent
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    line = [sys.executable, "script.py", "out.nc"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("done")
    assert {name for name in os.listdir(tmp_path) if name.endswith((".nc", ".part"))} == {"out.nc"}
