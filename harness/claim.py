"""Who runs a run: exactly one process, without a lock server and without comparing clocks.

Owners form a chain of files that are never rewritten: `owner.json`, then for each owner that was lost a file named after
that owner's content, which holds the one who took over. Every file comes into being by a hard link, so of any number of
contenders one wins; whoever stands at the end of the chain owns the run. The owner counts a heartbeat up; a contender
that sees the count stand still for longer than two beats (or, on the same host, whose process is gone) takes over.
Before its last write an owner looks whether it still stands at the end, so a process that was given up for dead and
comes back cannot overwrite its successor's record.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness import atomic
from harness.errors import RecordError


def _host() -> str:
    """This boot of this host, as a hash: tells two hosts apart and gives no name away."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = ""
    return hashlib.sha256(f"{os.uname().nodename}{boot}".encode()).hexdigest()[:16]


def _born(pid: int) -> str | None:
    """When a process of this host started (so that a reused number is not taken for it); None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]  # a zombie has ended, whoever forgot to bury it


def _last(folder: Path) -> bytes | None:
    """The owner at the end of a run's chain; None where nobody owns the run."""
    last, path = None, folder / "owner.json"
    while True:
        try:
            last = path.read_bytes()
        except FileNotFoundError:
            return last
        path = _successor(folder, last)


def _successor(folder: Path, owner: bytes) -> Path:
    return folder / f"owner.{hashlib.sha256(owner).hexdigest()[:24]}"


@dataclass(frozen=True)
class Owner:
    """Who a run's folder says is running it. here: whether that process lives; None where it is another host's."""

    here: bool | None
    job: str | None


def owner(folder: Path) -> Owner | None:
    """Who owns a run, without waiting for heartbeats; None where nobody does. For people and plans: a claim decides."""
    last = _last(folder)
    if last is None:
        return None
    try:
        them = json.loads(last)
        lives = _born(int(them["pid"])) == them["born"] if them["host"] == _host() and them["born"] else None
        return Owner(lives, them.get("job"))
    except (ValueError, KeyError, TypeError):
        return Owner(False, None)


class Busy(RecordError):
    """Somebody else is running this run at this moment."""


class Claim:
    """`with Claim(folder, beat_seconds): ...` owns the run in `folder`, and says so every `beat_seconds`."""

    def __init__(self, folder: Path, beat_seconds: float) -> None:
        self.folder, self.beat_seconds = folder, beat_seconds
        self.owner, self.pulse = folder / "owner.json", folder / "heartbeat"
        born = _born(os.getpid())
        array = [os.environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK")]
        job = "_".join(array) if all(array) else os.environ.get("SLURM_JOB_ID")
        mine = {"token": secrets.token_hex(16), "host": _host(), "pid": os.getpid(), "born": born, "job": job}
        self.mine = atomic.to_json(mine)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Claim:
        """Own the run. Raises Busy where somebody alive does, RecordError where the folder cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while not (self._joined() and self.held()):
                continue  # the chain ended, or began anew, between our look and our link
            atomic.write(self.pulse, b"0\n")
        except OSError as error:
            raise RecordError(
                f"cannot write to the results store: {error}; make room or choose another with results.root=DIR"
            ) from error
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the heartbeat, and give the run up if it is still ours."""
        self._stop.set()
        self._thread.join()
        if self.held():
            for path in [self.owner, self.pulse, *self.folder.glob(f"owner.{24 * '[0-9a-f]'}")]:
                path.unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether the run is still ours: asked before the last write (the fence)."""
        return _last(self.folder) == self.mine

    def _joined(self) -> bool:
        """Try to stand at the end of the chain. Raises Busy where somebody alive does."""
        last = _last(self.folder)
        if last is None:
            return atomic.create(self.owner, self.mine)
        if self._alive(last):
            raise Busy(f"{self.folder.name} is being run by another process (its heartbeat moves); nothing to do")
        return atomic.create(_successor(self.folder, last), self.mine)

    def _beat(self) -> None:
        """Count the heartbeat up until stopped. A full disk stops the pulse, not the run: the final write will tell."""
        count = 0
        while not self._stop.wait(self.beat_seconds):
            count += 1
            try:
                atomic.write(self.pulse, f"{count}\n".encode())
            except OSError:
                continue

    def _alive(self, theirs: bytes) -> bool:
        """Whether an owner lives: by its process on this host, elsewhere by two looks at its heartbeat."""
        try:
            them = json.loads(theirs)
            host, pid, born = them["host"], int(them["pid"]), them["born"]
        except (ValueError, KeyError, TypeError):
            return False  # no owner of ours wrote that
        if host == _host() and born is not None:
            return _born(pid) == born
        before = self._pulse()
        time.sleep(2.5 * self.beat_seconds)
        return self._pulse() != before

    def _pulse(self) -> bytes | None:
        try:
            return self.pulse.read_bytes()
        except OSError:
            return None
