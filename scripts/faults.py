"""Faults of machines and their neighbours, one after another: `python scripts/faults.py [--random 800] [--only kill]`.

Prints a table: fault, tries, survived, lost. Survived: nothing false is in the store, and the same command makes the
run afterwards. Lost: a record that was there before is gone or changed, or one claims to be done and is not whole.
The faults themselves: scripts/store_faults.py, scripts/outer_faults.py, and, for root, scripts/disk_faults.py.
"""

from __future__ import annotations

import argparse
import errno
import tempfile
from collections.abc import Callable
from pathlib import Path

import disk_faults as disk
import outer_faults as outer
import store_faults as store

from harness import publish


def main() -> None:
    """All faults, a table, and exit code 1 where anything was lost."""
    parser = argparse.ArgumentParser(prog="python scripts/faults.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--random", type=int, default=800, help="kills at random moments of a run's life in the store")
    parser.add_argument("--runs", type=int, default=60, help="kills of short runs")
    parser.add_argument("--only", help="faults with this in their name")
    chosen = parser.parse_args()
    publish.save_predictions(Path(tempfile.mkdtemp()), "test", store.SAID)  # imported once, here
    full = store.refuse(errno.ENOSPC)
    faults: dict[str, Callable[[Path], store.Counts]] = {
        "kill -9 before and after every write, fsync, rename": lambda at: store.enumerated(at, store.kill),
        "the same, over a finished run": lambda at: store.enumerated(at, store.kill, over=True),
        "kill -9 at random moments": lambda at: store.killed_anywhere(at, chosen.random),
        "kill -9 of a short run, at random moments": lambda at: outer.killed_runs(at, chosen.runs),
        "a write, fsync or rename fails once": lambda at: store.enumerated(at, store.refuse(errno.EIO)),
        "disk is full from then on": lambda at: store.enumerated(at, full, onward=True),
        "the same, over a finished run, too": lambda at: store.enumerated(at, full, onward=True, over=True),
        "store becomes read-only": lambda at: store.enumerated(at, store.refuse(errno.EROFS), onward=True),
        "four writers on one run": lambda at: store.four_writers(at, 25),
        "clock jumps": store.clocks,
        "truncated, garbled, foreign record": outer.broken_records,
        "checkpoint cut off": outer.cut_checkpoints,
        "data cache written by two processes": lambda at: outer.shared_cache(at, 10),
        "hub hangs, answers slowly or nonsense": outer.hubs,
    }
    if disk.mountable():
        faults |= {
            "a real disk that is full": lambda at: disk.full_disk(at, over=False),
            "a real disk that is full, over a finished run": lambda at: disk.full_disk(at, over=True),
            "a real file system turns read-only": lambda at: disk.read_only(at, 200),
        }
    print(f"{'fault':<54}{'tries':>7}{'survived':>10}{'lost':>6}")
    bad = 0
    for name, fault in faults.items():
        if chosen.only and chosen.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            tries, survived, lost = fault(Path(folder))
        bad += tries - survived
        print(f"{name:<54}{tries:>7}{survived:>10}{lost:>6}", flush=True)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
