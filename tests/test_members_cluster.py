"""Members are the same on any chunking, in one process and on clusters of one and of two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import downscale
import numpy as np
from dask.distributed import Client, LocalCluster
from sample_fields import plane, rain_on, same_bits, world

MODEL = sys.argv[1]
CHUNKS = ({"time": 1, 0: 5, 1: 7}, {"time": 3, 0: 12, 1: 4})


def chunked(ds, sizes):
    y, x = ds.pr.dims[-2:]
    return ds.chunk({"time": sizes["time"], y: sizes[0], x: sizes[1]})


def main():
    fields = [rain_on(grid, 3, missing=0.05) for grid in (world(12, 16), plane(14, 18))]
    methods = {"cascade": same_bits, MODEL: lambda a, b: np.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)}
    cases = [(i, method) for i in range(len(fields)) for method in methods]
    here = {(i, method): fields[i].downscale(2, method, members=3, seed=4) for i, method in cases}
    assert all(float(fine.pr.std("realization").max()) > 0.01 for fine in here.values())
    for workers in (1, 2):
        options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options) as cluster, Client(cluster) as client:
            assert len(client.scheduler_info()["workers"]) == workers
            for (i, method), whole in here.items():
                for sizes in CHUNKS[:workers]:
                    lazy = chunked(fields[i], sizes).downscale(2, method, members=3, seed=4)
                    assert lazy.pr.chunks is not None
                    there = lazy.compute()
                    assert there.pr.dims == whole.pr.dims
                    assert methods[method](there.pr, whole.pr), (workers, method, sizes)
                    assert downscale.check_conservation(fields[i], there).passed
    print("done")


if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_members_do_not_know_chunks_nor_workers(tmp_path: Path) -> None:
    """The cascade bit for bit, a network to 1e-6; with cells missing, on the sphere and on a plane."""
    from test_ensemble_model import drawing

    from downscale.models.checkpoint import save

    model = save(tmp_path / "model.safetensors", drawing())
    tests = Path(__file__).parent
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "script.py", str(model)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("done")
