"""What became of runs, as the store says; and which are worth another try. Never from what a launcher returned.

DONE and the ways of failing stand in the record. RUNNING there is a claim to be checked: by the owner's process on its
own host, by its job in Slurm's queue, and elsewhere by the age of its heartbeat, measured by the file system's clock.
A run whose owner is gone is LOST: the same command goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import atomic, claim, index, progress, record
from harness.errors import RecordError
from harness.jobs import Jobs
from harness.record import DIVERGED, DONE, FAILED, OUT_OF_MEMORY, PREEMPTED, RUNNING, TIMEOUT, Record, Unreadable

QUEUED, LOST, MISSING, UNREADABLE = "QUEUED", "LOST", "MISSING", "UNREADABLE"
ALIVE = (QUEUED, RUNNING)
SILENT_BEATS = 6  # heartbeats that may fail to come before a run on another host counts as lost
# How many attempts a state is worth before a person has to look; None: any number, since each one gets further. What
# failed by itself on the same bits fails again: it is tried anew when the code has changed, or when asked (--retry).
TRIES: dict[str, int | None] = {
    MISSING: None, PREEMPTED: None, TIMEOUT: None, LOST: 5, FAILED: 2, DIVERGED: 1, OUT_OF_MEMORY: 1,
}  # fmt: skip


@dataclass(frozen=True)
class State:
    """What became of one run.

    Attributes:
        word: a state of the record, or QUEUED, LOST, MISSING, UNREADABLE. reason: why, where it is not DONE.
        job: its Slurm job in the queue. tries: attempts so far that ended without a result, this one included.
        stale: it was made by other code. at: progress of a run that lives (harness/progress.py).
        elsewhere: a missing run as it was made on another device: that and its id there (harness/standing.py).
    """

    word: str
    reason: str = ""
    job: str = ""
    tries: int = 0
    stale: bool = False
    at: dict[str, Any] = field(default_factory=dict)
    elsewhere: tuple[str, str] | None = None

    @property
    def again(self) -> bool:
        """Whether it is worth another try without being asked for."""
        if self.word in (DONE, UNREADABLE, *ALIVE):
            return False
        tries = TRIES[self.word]
        return tries is None or self.tries < tries or self.stale


class Survey:
    """A store as it is now: one look at its index and one at Slurm's queue, then cheap answers."""

    def __init__(self, root: Path) -> None:
        self.root, self.jobs = root, Jobs(root)
        self.records: dict[str, Record | Unreadable] = {
            one.path.parent.name if isinstance(one, Unreadable) else one.id: one for one in index.read_all(root)
        }
        self.stale = index.remembered(_stale)
        self._now: float | None = None

    def of(self, run: str) -> State:
        """What became of a run."""
        known, job = self.records.get(run), self.jobs.of(run)
        if isinstance(known, Unreadable):
            return State(UNREADABLE, known.reason)
        if known is not None and known.state == DONE:
            return State(DONE, stale=bool(self.stale(known)))
        if known is None:
            return State(QUEUED, "", job[0]) if job else self._unrecorded(run)
        return self._unfinished(known, job)

    def _unrecorded(self, run: str) -> State:
        """A run without a record: nobody began, or somebody is about to."""
        held = claim.owner(self.root / run) if (self.root / run).is_dir() else None
        return State(RUNNING, "starting") if held is not None and held.here else State(MISSING)

    def _unfinished(self, known: Record, job: tuple[str, str] | None) -> State:
        folder = self.root / known.id
        tries = 1 + len(self._whole(known).provenance.get("attempts", []))
        state = State(known.state, known.error, job[0] if job else "", tries, bool(self.stale(known)))
        if job is not None:
            running = job[1] in ("RUNNING", "COMPLETING") and known.state == RUNNING
            return State(RUNNING, "", job[0], tries, at=progress.read(folder)) if running else State(
                QUEUED, f"again after {known.state}", job[0], tries)  # fmt: skip
        if known.state != RUNNING:
            held = claim.owner(folder)
            return State(RUNNING, "starting", tries=tries) if held is not None and held.here else state
        held = claim.owner(folder)
        gone = self._gone(known, held)
        if gone:
            return State(LOST, gone, "", tries, state.stale, progress.read(folder))
        return State(RUNNING, "", (held.job if held else "") or "", tries, at=progress.read(folder))

    def _gone(self, known: Record, held: claim.Owner | None) -> str:
        """Why a run that says it is running is not; "" where it may well be."""
        if held is None:
            return "nobody owns it"
        if held.here is not None:
            return "" if held.here else "its process is gone (killed?)"
        age = self.heartbeat_age(known.id)
        if age is None:
            return "it has no heartbeat"
        beat = float(self._whole(known).config.get("results", {}).get("heartbeat_seconds", 10))
        return f"no heartbeat for {age:.0f} s" if age > SILENT_BEATS * beat + 30 else ""

    def heartbeat_age(self, run: str) -> float | None:
        """Seconds since a run's last heartbeat, by the file system's clock; None where it has none."""
        try:
            return max(0.0, self.now() - (self.root / run / "heartbeat").stat().st_mtime)
        except OSError:
            return None

    def _whole(self, known: Record) -> Record:
        """A record with what the index leaves out."""
        with contextlib.suppress(RecordError):
            return record.read(self.root / known.id) or known
        return known

    def now(self) -> float:
        """The time by the clock of the file system that holds the store, not of this host."""
        if self._now is None:
            try:
                probe = atomic.write_temporary(self.root / ".clock", b"")
                self._now = probe.stat().st_mtime
                probe.unlink()
            except OSError:
                self._now = time.time()
        return self._now


def _stale(one: Record) -> list[str]:
    from harness import provenance

    return provenance.stale(one)
