"""`python -m harness.fill ... --cancel`: waiting jobs of a table, or of a grid, that it no longer names.

A job is of this table where its submission's note says so. A job is of this grid where the grid that it was submitted
for has the same words, each with all of today's values (`seed=0,1,2,3` then, `seed=0,1` now). Whatever else stands in
the queue, for this store or not, stays; so does what runs, unless asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness import jobs
from harness.errors import ConfigError
from harness.jobs import Jobs, Noted
from harness.standing import Found

SHOWN = ("device", "hydra", "preflight", "progress", "rerun", "results", "threads", "wandb")  # they choose no run
LISTS = ("[", "{", "(", "'", '"')


def cancel(found: Found, *, table: str, words: Sequence[str], running: bool = False, dry: bool = False) -> None:
    """Take out of the queue what stands for no wanted run, on either device; `dry`: only say what that is."""
    named = {name for one, _ in found.values() for name in (one.id, *(run for _, run in one.elsewhere))}
    for root in {one.config.results.root for one, _ in found.values()}:
        queued = Jobs(Path(root))
        if queued.problem:
            raise ConfigError(queued.problem)
        live = {run: known for run in queued.live() if (known := queued.of(run)) is not None}
        ours = partial(_of_this, table=table, words=words)
        gone = {run: job for run, (job, _) in live.items() if run not in named and ours(queued.noted[job])}
        alive = {run: job for run, job in gone.items() if live[run][1] != "PENDING"}
        gone = gone if running else {run: job for run, job in gone.items() if run not in alive}
        if not dry:
            jobs.cancel(list(gone.values()), running=running)
        for run, job in gone.items():
            print(f"{'would cancel' if dry else 'cancelled'} job {job}: {run}")
        for run, job in alive.items() if not running else ():
            print(f"job {job} runs already and stays (--cancel-running): {run}")
        print(f"{len(gone)} jobs {'to cancel' if dry else 'cancelled'} in {root}; {len(live) - len(gone)} stay")


def _of_this(job: Noted, *, table: str, words: Sequence[str]) -> bool:
    """Whether a job was submitted for this table, or for this grid when it had as many values or more."""
    if table or job.table:
        return job.table == table
    if job.words is None:  # by an earlier version, which noted no words
        return False
    then, now = values(job.words), values(words)
    return then.keys() == now.keys() and all(now[key] <= then[key] for key in now)


def values(words: Sequence[str]) -> dict[str, set[str]]:
    """The values of each word that chooses runs."""
    found = {}
    for word in words:
        key, _, given = word.partition("=")
        if key.lstrip("+~").split(".")[0].split("/")[0] not in SHOWN:
            found[key] = {given} if any(mark in given for mark in LISTS) else set(given.split(","))
    return found
