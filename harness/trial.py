"""What a run will cost where nothing like it was made: it is begun, watched for a few updates, and ended."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import replace
from typing import Any

from harness import progress, record
from harness.wanted import Wanted
from harness.workers import work_quietly

UPDATES = 4  # that are measured, after the first ones
PATIENCE_SECONDS = 300.0


def seconds(one: Wanted) -> float | None:
    """Expected seconds of a run's training on this machine; None where it ends before it says, or takes too long.

    It is begun as it is, so that schedules that need their length hold, in a store that is thrown away.
    """
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        results = replace(one.config.results, root=folder, heartbeat_seconds=1.0, keep_adapter=False)
        mirrored = replace(one.config.wandb, mode="disabled", trackers=[])
        brief = replace(one, config=replace(one.config, results=results, wandb=mirrored, progress=False, pack=1))
        process = multiprocessing.get_context("forkserver").Process(target=work_quietly, args=([brief], 0, True))
        process.start()
        try:
            return _watched(brief, process)
        finally:
            process.terminate()
            process.join(60)
            process.kill()
            process.join()


def _watched(one: Wanted, process: Any) -> float | None:
    """The measured time of an update times their number, or what the run cost where it ended meanwhile."""
    first: tuple[float, float] | None = None
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        process.join(0.2)
        if not process.is_alive():
            stored = record.read(one.folder)
            return float(stored.cost["seconds"]) if stored is not None and stored.state == record.DONE else None
        at = progress.read(one.folder)
        if not at.get("step") or at.get("seconds_left") is None or at["of"] <= at["step"]:
            continue
        now = (at["step"], at["seconds_left"] / (at["of"] - at["step"]) * at["step"])
        first = first or now
        if now[0] >= first[0] + UPDATES:
            return float(at["of"]) * (now[1] - first[1]) / (now[0] - first[0])
    return None
