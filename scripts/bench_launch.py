"""What launching costs: processor seconds of a run in a sweep, over the same run in a bare process beside its imports.

    python scripts/bench_launch.py

Sweeps of one and of nine tiny runs on one local worker, and as many runs one after the other in one process that calls
`harness.run` itself: the eight more runs of each cost so much a run; the difference is what launching one costs.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile

SHORT = ["train.max_steps=2", "data.max_train_rows=96", "data.max_eval_rows=40", "progress=false", "threads=1"]
MANY = 9
BARE = """
import sys
from dataclasses import replace
from harness import compose, run
config = compose.composed(sys.argv[2:])
for seed in range(int(sys.argv[1])):
    run.run(run.plan(replace(config, seed=seed)))
"""
SUBREAPER = 36  # of Linux' prctl: descendants that lose their parent become ours, and their seconds are counted


def used(*command: str) -> float:
    """Processor seconds of a command and of all its descendants. Stops where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def a_run(kind: str) -> float:
    """Processor seconds of one more run."""
    found = []
    for count in (1, MANY):
        with tempfile.TemporaryDirectory() as folder:
            words = [*SHORT, f"results.root={folder}"]
            seeds = ",".join(map(str, range(count)))
            sweep = ["-m", "harness", "-m", "hydra.launcher.workers=1", f"seed={seeds}", *words]
            found.append(used(*sweep) if kind == "sweep" else used("-c", BARE, str(count), *words))
    return (found[1] - found[0]) / (MANY - 1)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    costs = {kind: round(a_run(kind), 2) for kind in ("sweep", "bare")}
    print(json.dumps(costs | {"launching": round(costs["sweep"] - costs["bare"], 2)}))
