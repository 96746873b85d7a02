"""Real file systems that are full or turn read-only under a run's life in the store (in memory, mounted for it).

Mounting takes root on Linux; elsewhere `mountable` says so and the table shows "-". What survived and lost mean:
scripts/store_faults.py.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store_faults import Counts, before, child, ended, forked, judged, life

PAGE_KIB, ROOMY_KIB = 4, 8192


def _mount(at: Path, options: str) -> bool:
    """Whether a file system in memory was mounted there, or mounted again with other options."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], capture_output=True)
    return done.returncode == 0


@contextmanager
def mounted(at: Path, kib: int) -> Iterator[Path]:
    """A file system of so many KiB in a folder."""
    at.mkdir(exist_ok=True)
    if not _mount(at, f"size={kib}k"):
        raise OSError(f"cannot mount a file system at {at}: it takes root")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def mountable() -> bool:
    """Whether this process may mount a file system."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), PAGE_KIB):
                return True
        except OSError:
            return False


def full_disk(at: Path, *, over: bool) -> Counts:
    """One page of room for a life, then two, until it has enough; after each the disk grows and the run is made again."""
    tries = survived = lost = 0
    for room in range(0, ROOMY_KIB, PAGE_KIB):
        with mounted(at / "disk", ROOMY_KIB) as disk:
            held = before(disk / "run") if over else None
            used = sum(
                max(1, -(-path.lstat().st_size // 4096)) * PAGE_KIB for path in disk.rglob("*") if path.is_file()
            )
            _mount(disk, f"remount,size={max(used + room, PAGE_KIB)}k")
            if child(lambda disk=disk: life(disk / "run")):  # type: ignore[misc]
                break
            _mount(disk, f"remount,size={ROOMY_KIB}k")
            good, bad = judged(disk / "run", held)
            tries, survived, lost = tries + 1, survived + good, lost + bad
    return tries, survived, lost


def read_only(at: Path, tries: int, life_seconds: float = 0.03) -> Counts:
    """Mounted read-only at a random moment (the kernel waits until no file is open for writing), later writable again."""
    chance, survived, lost = random.Random(0), 0, 0
    for number in range(tries):
        with mounted(at / "disk", ROOMY_KIB) as disk:
            held = before(disk / "run") if number % 2 else None
            pid = forked(lambda disk=disk: life(disk / "run"))  # type: ignore[misc]
            time.sleep(chance.random() * life_seconds)
            while not _mount(disk, "remount,ro"):
                time.sleep(0.0005)
            ended(pid)
            _mount(disk, "remount,rw")
            good, bad = judged(disk / "run", held)
            survived, lost = survived + good, lost + bad
    return tries, survived, lost
