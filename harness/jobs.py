"""Slurm's queue, and which of our runs stand in it. Nothing here asks `sacct`; what became of a run is in its record.

    results/runs/.slurm/<job id>.json    one submission: its cluster, what was asked for, and which run each of its jobs makes
    results/runs/.slurm/<job id>_<n>/    what submitit keeps of a job, and what the job printed

A note that is lost costs nothing but a second submission, which finds the run owned (harness/claim.py) and ends.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness import atomic, scrub
from harness.errors import ConfigError, HarnessError

FOLDER = ".slurm"


class NoAnswer(HarnessError):
    """Slurm's commands are here and do not answer."""


def available() -> bool:
    """Whether this machine can speak to a Slurm cluster."""
    return shutil.which("squeue") is not None and shutil.which("sbatch") is not None


def _ask(*words: str) -> str:
    """What a Slurm command prints. Raises NoAnswer, ConfigError where there is no such command."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {words[0]} on this machine: hydra/launcher=slurm works on a cluster's login node; "
            "here hydra/launcher=local runs on this machine's processors"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(
            f"{words[0]} does not answer within {error.timeout:.0f} s; is the cluster's controller up?"
        ) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise NoAnswer(f"{words[0]}: {said.removeprefix(f'{words[0]}: ')}")
    return done.stdout


@cache
def cluster() -> dict[str, str]:
    """The cluster's settings, as `scontrol show config` has them: ClusterName, MaxArraySize, ..."""
    found = (line.partition("=") for line in _ask("scontrol", "show", "config").splitlines())
    return {key.strip(): value.strip() for key, _, value in found if value}


def array_limit() -> int:
    """The most jobs that one array may have."""
    return max(1, int(re.sub(r"\D.*", "", cluster().get("MaxArraySize", "")) or 1001))


def queue() -> dict[str, str]:
    """Our jobs in the queue: id (`12` or `12_3`) -> PENDING, RUNNING, COMPLETING, ..."""
    lines = (line.split() for line in _ask("squeue", "--noheader", "--me", "--array", "--format=%i %T").splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


@dataclass(frozen=True)
class Noted:
    """A job that was submitted: its run, and what was asked for: a table by its name, or the words of a grid."""

    run: str
    table: str = ""
    words: tuple[str, ...] | None = None


def note(root: Path, runs: dict[str, str], table: str = "", words: Sequence[str] | None = None) -> None:
    """Remember a submission: job id -> run id, and what was asked for."""
    at = root / FOLDER / f"{next(iter(runs)).partition('_')[0]}.json"
    at.parent.mkdir(parents=True, exist_ok=True)
    content = {"cluster": cluster().get("ClusterName", ""), "runs": runs, "table": table, "words": words}
    atomic.write(at, atomic.to_json(scrub.scrubbed(content)))


def noted(root: Path) -> dict[str, Noted]:
    """Every job that was submitted for this store to this cluster, oldest first, by its id."""
    found: dict[str, Noted] = {}
    for path in sorted((root / FOLDER).glob("*.json"), key=lambda path: (len(path.name), path.name)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept: dict[str, Any] = json.loads(path.read_bytes())
            if kept["cluster"] == cluster().get("ClusterName", ""):
                words = kept.get("words")
                of = kept.get("table", ""), None if words is None else tuple(words)
                found |= {job: Noted(run, *of) for job, run in kept["runs"].items()}
    return found


class Jobs:
    """Which runs of a store have jobs: looked up once, and nothing is asked where nothing was ever submitted.

    problem: why the queue is not known, or "".
    """

    def __init__(self, root: Path) -> None:
        self.root, self.problem = root, ""
        self.noted: dict[str, Noted] = {}
        self._live: dict[str, tuple[str, str]] = {}
        self._last: dict[str, str] = {}
        if not any((root / FOLDER).glob("*.json")):
            return
        if not available():
            self.problem = "this store has Slurm jobs and there is no squeue here: what waits in the queue is not known"
            return
        try:
            live, self.noted = queue(), noted(root)
        except NoAnswer as error:
            self.problem = f"{error}: what waits in the queue is not known"
            return
        self._last = {one.run: job for job, one in self.noted.items()}
        self._live = {one.run: (job, live[job]) for job, one in self.noted.items() if job in live}

    def of(self, run: str) -> tuple[str, str] | None:
        """A run's job in the queue and that job's state there; None where it has none."""
        return self._live.get(run)

    def log(self, run: str) -> Path | None:
        """What the newest job of a run printed."""
        job = self._last.get(run)
        found = sorted((self.root / FOLDER / job).glob("*_0_log.err")) if job else []
        return found[-1] if found else None

    def live(self) -> dict[str, str]:
        """Run -> its job in the queue."""
        return {run: job for run, (job, _) in self._live.items()}


def cancel(jobs: list[str], *, running: bool) -> None:
    """Take jobs out of the queue; without `running` none that began in the meantime. Those that run end with a checkpoint."""
    only = [] if running else ["--state=PENDING"]
    for start in range(0, len(jobs), 500):
        _ask("scancel", *only, *jobs[start : start + 500])
