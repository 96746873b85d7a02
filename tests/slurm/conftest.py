"""A real Slurm for the tests of this folder: one throw-away node, where its programs are installed."""

from __future__ import annotations

import os

import cluster
import pytest


@pytest.fixture(scope="session")
def slurm(tmp_path_factory, pytestconfig):
    """The cluster's environment variables. Skips with the reason where there is no Slurm to start, or nobody asked."""
    if reason := cluster.missing():
        pytest.skip(f"no Slurm: {reason}")
    if not any("slurm" in word for word in pytestconfig.invocation_params.args):
        pytest.skip("four minutes on a real Slurm are not part of the whole: pytest -n 0 tests/slurm")
    folder = tmp_path_factory.mktemp("slurm")
    conf = cluster.start(folder, array=6)  # indices 0..5: twelve runs need more than one array
    yield os.environ | {"SLURM_CONF": str(conf), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    cluster.stop(folder)
