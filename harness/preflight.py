"""Before the first step of every run: is this the experiment that was asked for? Silence is what makes numbers wrong.

Fourteen checks (harness/checks.py, harness/fits.py), on two short rows and on a copy of the model that shares the frozen
weights: nothing is loaded again, and the run's own model is never touched. Generators are put back. A run with preflight off is
bit-identical to one with it on, so none of this is part of a run's identity.

    python -m harness ... preflight.skip=[padding]      all but one check
    python -m harness ... preflight.enabled=false       none

What a method knows of itself stands in its YAML under `declares` (conf/method), one word of probe.DECLARATIONS each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness import checkpoint, checks, fits
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.probe import Probe

CHECKS: dict[str, Callable[[Probe], list[str]]] = checks.CHECKS | fits.CHECKS
BY_PART = ("saved", "penalty", "padding", "labels")  # of several tasks each is asked


@contextmanager
def _untouched() -> Iterator[None]:
    """Every generator as it was."""
    saved = checkpoint.generators()
    try:
        yield
    finally:
        checkpoint.load_generators(saved)


def check(run: RunConfig, probe: Callable[[], Probe]) -> tuple[list[str], dict[str, Any]]:
    """All checks that are switched on. Returns what to remark on, and what was checked in how many seconds.

    Raises ConfigError with every fault found, each with its check's name and its remedy.
    """
    wanted = [name for name in CHECKS if run.preflight.enabled and name not in run.preflight.skip]
    if not wanted:
        return [], {"seconds": 0.0, "passed": [], "skipped": list(CHECKS)}
    begun, faults = time.perf_counter(), []
    with _untouched():
        looked_at = probe()
        if looked_at.task.kind == "multi":  # the backbone's own loss knows of one head
            wanted = [name for name in wanted if name != "penalty"]
        for name in wanted:
            faults += [f"preflight, {name}: {fault}; preflight.skip=[{name}] goes on without this check"
                       for fault in _of_all(name, looked_at)]  # fmt: skip
    if faults:
        raise ConfigError("\n".join(faults))
    seconds = round(time.perf_counter() - begun, 3)
    return looked_at.remarks, {"seconds": seconds, "passed": wanted, "skipped": sorted(CHECKS.keys() - set(wanted))}


def _of_all(name: str, probe: Probe) -> list[str]:
    """A check's faults; where each of several tasks is asked, those of the first task that has any, and its name."""
    for part in probe.parts if name in BY_PART else (None,):
        probe.turn_to(part)
        if faults := _asked(CHECKS[name], probe):
            return faults if part is None else [f"{part}: {fault}" for fault in faults]
    probe.turn_to(None)
    return []


def _asked(asked: Callable[[Probe], list[str]], probe: Probe) -> list[str]:
    """One check's faults. One that cannot be carried out is a fault as well: nobody would know what it hides."""
    try:
        return asked(probe)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
        lines = str(error).strip().splitlines()
        return [f"cannot be carried out ({type(error).__name__}: {lines[0] if lines else 'no reason given'})"]
