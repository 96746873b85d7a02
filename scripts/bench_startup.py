"""What starting costs: seconds of the commands that make no run, and which imports they are spent on.

    python scripts/bench_startup.py

Targets: `--help` at most 1 s, a run that is done at most 2 s. Median of five starts, wall and processor seconds; then the
dearest imports of each command, by python's own `-X importtime` (milliseconds, of the module itself and with all below).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|(\s+)(\S+)")
TINY = ["train.max_steps=1", "data.max_train_rows=32", "data.max_eval_rows=32", "progress=false", "device=cpu"]


def started(words: Sequence[str], *flags: str) -> tuple[float, float, str]:
    """Wall and processor seconds of one start, and its standard error. Stops where it fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *flags, "-m", *words], capture_output=True, text=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(words)} failed: {done.stderr.strip()}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def imports(words: Sequence[str], least_ms: float) -> list[tuple[float, float, str]]:
    """Milliseconds of importing (alone, with all below) and name of the modules that cost at least so much."""
    _, _, told = started(words, "-X", "importtime")
    rows = [(int(own) / 1000, int(whole) / 1000, name) for own, whole, _, name in LINE.findall(told)]
    return sorted((row for row in rows if row[1] >= least_ms), key=lambda row: -row[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--least-ms", type=float, default=20.0, help="imports that cost less are not shown")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as store:
        run = ["harness", *TINY, f"results.root={store}"]
        started(run)
        commands = {
            "--help": ["harness", "--help"],
            "done run": run,
            "table": ["harness.table", f"results.root={store}"],
        }
        for name, words in commands.items():
            found = [started(words)[:2] for _ in range(options.starts)]
            wall, processor = (statistics.median(row[place] for row in found) for place in (0, 1))
            print(f"{name:10} {wall:6.2f} s wall, {processor:5.2f} s processor")
            for own, whole, module in imports(words, options.least_ms):
                print(f"    {whole:8.0f} ms  {own:7.1f} ms alone  {module}")


if __name__ == "__main__":
    main()
