"""Faults of machines and of other processes, done to a run's life in the store: tries, survived, lost of each.

Survived: nothing false is in the store, and the same command makes the run afterwards. Lost: a record that was there
before is gone or changed, or one claims to be done and is not whole. scripts/faults.py runs them all.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from harness import publish, record
from harness.checkpoint import Checkpoints
from harness.claim import Busy, Claim
from harness.errors import HarnessError, RecordError
from harness.identity import hash_files
from harness.record import DONE, RUNNING, Record

Counts = tuple[int, int, int]  # tries, survived, lost
CALLS = ("write", "fsync", "replace", "link", "unlink")
BEGUN = Record("demo.run", RUNNING, {"seed": 0}, {}, {"name": "demo", "note": ""})
SAID: Any = SimpleNamespace(predictions={"id": ["0", "1"], "prediction": [1, 0], "target": [1, 1]})


def life(folder: Path) -> None:
    """A run's whole life in the store, the training left out: claim, begin, two checkpoints, predictions, publish."""
    with Claim(folder, beat_seconds=60) as claim:
        publish.supersede(folder)
        record.write(folder, BEGUN)
        with publish.failures(folder, BEGUN):
            kept = Checkpoints(folder / "checkpoints", "key", 0.0)
            for step in (1, 2):
                with redirect_stderr(io.StringIO()):
                    kept.save({"step": step, "weights": torch.full((3,), float(step))})
            saved = publish.save_predictions(folder, "test", SAID)
            science = {"main": {"split": "test", "metric": "accuracy", "score": 50.0}, "predictions": {"test": saved}}
            publish.publish(folder, replace(BEGUN, state=DONE, science=science), claim.held)


def whole(folder: Path) -> bool | None:
    """Whether a record is done; None where it claims so and what it names is not there."""
    try:
        stored = record.read(folder) if folder.is_dir() else None
    except RecordError:
        return None
    if stored is None or stored.state != DONE:
        return False
    saved = stored.science["predictions"]["test"]
    return (
        True if (folder / saved["file"]).is_file() and hash_files([folder / saved["file"]]) == saved["sha256"] else None
    )


def before(folder: Path) -> bytes:
    """A finished run, for the next one to supersede; its record."""
    life(folder)
    return (folder / "record.json").read_bytes()


def judged(folder: Path, held: bytes | None = None) -> tuple[int, int]:
    """After a fault: (survived, lost). The same run must be able to finish, and a record from before be kept."""
    if whole(folder) is None or not _keeps(folder, held):
        return 0, 1
    with suppress(HarnessError, OSError):
        life(folder)
    return (1, 0) if whole(folder) and _keeps(folder, held) else (0, 1)


def _keeps(folder: Path, held: bytes | None) -> bool:
    """Whether an earlier record is there as it was: in its place or moved aside."""
    there = [folder / "record.json", *(folder / "superseded").glob("*/record.json")]
    return held is None or any(path.is_file() and path.read_bytes() == held for path in there)


@contextmanager
def meddled(action: Callable[[int, bool], None]) -> Iterator[list[int]]:
    """Every system call of interest is counted, and `action` told before and after it."""
    real, count = {name: getattr(os, name) for name in CALLS}, [0]

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def meddling(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            mine = count[0]
            action(mine, False)
            result = call(*arguments, **options)
            action(mine, True)
            return result

        return meddling

    for name, call in real.items():
        setattr(os, name, around(call))
    try:
        yield count
    finally:
        for name, call in real.items():
            setattr(os, name, call)


def forked(work: Callable[[], None], codes: dict[type[BaseException], int] | None = None) -> int:
    """The id of a new process that does some work: exit code 0, 1 after an error, or the one that `codes` gives it."""
    if pid := os.fork():
        return pid
    code = 1
    with suppress(BaseException):
        try:
            work()
            code = 0
        except tuple(codes or ()) as error:
            code = (codes or {})[type(error)]
    os._exit(code)


def ended(pid: int) -> int:
    """Wait for a process; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def child(work: Callable[[], None], seconds: float | None = None) -> bool:
    """Whether a forked process ends well; with `seconds` it is killed after so many."""
    pid = forked(work)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return ended(pid) == 0


class Reached(Exception):
    """A life that went on to its end although something was done to it."""


def enumerated(at: Path, act: Callable[[], None], *, over: bool = False, onward: bool = False) -> Counts:
    """`act` at each system call of a life, before and after it, in a process of its own, until a life has no more calls.

    `over`: there is a finished run already. `onward`: at every later call as well, as a disk that is full stays full.
    """
    tries = survived = lost = 0
    for after in (False, True):
        for moment in range(1, 1000):
            folder = at / f"{after}{moment}" / "run"
            folder.parent.mkdir()
            held = before(folder) if over else None

            def work(folder: Path = folder, moment: int = moment, after: bool = after) -> None:
                def acted(number: int, done: bool) -> None:
                    if done == after and (number == moment or (onward and number > moment)):
                        act()

                with meddled(acted) as count:
                    life(folder)
                if count[0] >= moment:
                    raise Reached

            if ended(forked(work, {Reached: 2})) == 0:
                break
            tries += 1
            good, bad = judged(folder, held)
            survived, lost = survived + good, lost + bad
            shutil.rmtree(folder.parent)
    return tries, survived, lost


def kill() -> None:
    """What a kernel out of memory does, or a batch system that lost its patience."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number: int) -> Callable[[], None]:
    """A system call that fails with this error."""

    def refused() -> None:
        raise OSError(number, os.strerror(number))

    return refused


def killed_anywhere(at: Path, tries: int) -> Counts:
    """Killed at a random moment of a first life, or of one over a result that is there."""
    chance, survived, lost = random.Random(0), 0, 0
    for number in range(tries):
        folder = at / f"{number}" / "run"
        folder.parent.mkdir()
        held = before(folder) if number % 2 else None
        child(lambda folder=folder: life(folder), chance.random() * 0.03)  # type: ignore[misc]
        good, bad = judged(folder, held)
        survived, lost = survived + good, lost + bad
        shutil.rmtree(folder.parent)
    return tries, survived, lost


def four_writers(at: Path, tries: int) -> Counts:
    """Four processes want one run at once: one makes it, the others are told so or find it done."""
    survived = lost = 0
    for number in range(tries):
        folder = at / f"{number}"
        pids = [forked(lambda folder=folder: life(folder), {Busy: 3}) for _ in range(4)]  # type: ignore[misc]
        codes = [ended(pid) for pid in pids]
        good = set(codes) <= {0, 3} and 0 in codes and bool(whole(folder))
        survived, lost = survived + good, lost + (whole(folder) is not True)
    return tries, survived, lost


def clocks(at: Path) -> Counts:
    """The wall clock jumps by years in either direction, in a run and in the times of its files."""
    real, survived, jumps = time.time, 0, (-1e9, -3600.0, 3600.0, 1e9)
    for number, jump in enumerate(jumps):
        folder = at / f"{number}"
        held = before(folder)
        for path in folder.iterdir():
            os.utime(path, (max(0.0, real() + jump),) * 2)
        time.time = lambda jump=jump: real() + jump  # type: ignore[misc]
        try:
            survived += judged(folder, held)[0]
        finally:
            time.time = real
    return len(jumps), survived, len(jumps) - survived
