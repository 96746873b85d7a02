"""The launcher for one machine: each run in a process of its own, one CPU thread each where several work, or a GPU each.

A worker that is killed costs its own run and no other. How a run ended is what the store says, never what its process
returned.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from harness import device, pack, record, scrub
from harness.claim import Busy
from harness.distributed import Group
from harness.errors import HarnessError
from harness.make import failed, say
from harness.wanted import Composer, Wanted

if TYPE_CHECKING:
    from harness.joint import Seat

BUSY = 75  # exit code of a worker that found its run owned by somebody else


class OwnLauncher(Launcher, ABC):
    """A launcher of ours: our sweeper hands it the runs that are to be made, Hydra's own sweeper any overrides.

    where: the device of runs that say `device=auto`; None: this machine's.
    asked: the table that the runs are of, and the words that asked for them.
    """

    where: str | None = None
    asked: tuple[str, list[str]] = ("", [])

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composing a job needs."""
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's interface: compose, leave out what is done, make the rest."""
        wanted = Composer(self.context.config_loader, self.config, self.where).wanted(job_overrides)
        stored = {one.id: record.read(one.folder) for one in wanted.values() if one.config.rerun == "never"}
        done = {run for run, known in stored.items() if known is not None and known.state == record.DONE}
        self.work([one for one in wanted.values() if one.id not in done])
        return []

    @abstractmethod
    def work(self, runs: Sequence[Wanted]) -> None:
        """Make every one of these runs."""


class LocalWorkers(OwnLauncher):
    """`workers=null`: one a GPU where there are GPUs, else one a core. Hydra makes it from conf/hydra/launcher/local.yaml."""

    def __init__(self, workers: int | None) -> None:
        self.workers = workers

    def work(self, runs: Sequence[Wanted]) -> None:
        """Make every run, at most `workers` processes at a time; the runs of a pack share one."""
        units = pack.units(runs)
        slots = list(range(self.workers or device.gpus() or len(os.sched_getaffinity(0))))[: len(units)]
        start = multiprocessing.get_context("forkserver")
        # `methods` before peft: it hushes what bitsandbytes says while peft is imported.
        start.set_forkserver_preload(
            ["torch", "transformers", "methods", "harness.quantization", "peft", "harness.train", "harness.evaluate"]
        )
        waiting = list(units)
        working: dict[Any, tuple[Any, list[Wanted], int]] = {}
        while waiting or working:
            while waiting and slots:
                unit, slot = waiting.pop(0), slots.pop(0)
                alone = self.workers == 1 or len(units) == 1
                process = start.Process(target=work_quietly, args=(unit, slot, alone), name=unit[0].id)
                process.start()
                working[process.sentinel] = (process, unit, slot)
            for sentinel in connection.wait(list(working)):
                process, unit, slot = working.pop(sentinel)  # type: ignore[index]
                process.join()
                slots.append(slot)
                for one in unit:
                    self._tell(process.exitcode, one)

    def _tell(self, code: int, one: Wanted) -> None:
        """Print how a run ended, by what the store says."""
        log = one.folder / "log.txt"
        try:
            stored = record.read(one.folder)
        except HarnessError as error:
            stored, reason = None, str(error)
        else:
            reason = stored.error if stored and stored.error else f"its process ended with code {code}"
        if stored is not None and stored.state == record.DONE:
            say(stored, one, done_before=False)
        elif code == BUSY:
            print(f"{one.id}: another process is making it now", flush=True)
        else:
            failed.append(one.id)
            said = f"{stored.state if stored else 'no record'}: {reason}" + (f"; log: {log}" if log.is_file() else "")
            print(f"error: {one.id}: {said}", file=sys.stderr, flush=True)


def work_quietly(unit: list[Wanted], slot: int, alone: bool) -> None:
    """In the worker's process: a run, or a pack of them. Raises SystemExit with the code of one that failed."""
    if device.gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot)
    if unit[0].config.pack == 1:
        return _make(unit[0], alone, shown=alone)
    runs = {one.id: one for one in unit}

    def work(seat: Seat) -> None:
        _make(runs[seat.run], alone, shown=alone and seat.run == unit[0].id, group=seat)

    codes = set(pack.together(list(runs), work))
    raise SystemExit(next(iter(sorted(codes - {0, BUSY})), max(codes)))


def _make(one: Wanted, alone: bool, *, shown: bool, group: Group | None = None) -> None:
    """One run, quietly; its record tells how it ended, its log.txt where it broke off. Raises SystemExit."""
    from harness import run

    threads = one.config.threads if one.config.threads is not None or alone else 1
    try:
        run.run(run.plan(replace(one.config, threads=threads, progress=one.config.progress and shown)), group)
    except Busy as error:
        raise SystemExit(BUSY) from error
    except HarnessError as error:
        if not _recorded(one, str(error)):
            print(f"error: {one.id}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error
    except Exception as error:
        if not _recorded(one, f"{type(error).__name__}: {error}"):
            one.folder.mkdir(parents=True, exist_ok=True)
            (one.folder / "log.txt").write_text(scrub.scrubbed(traceback.format_exc()), encoding="utf-8")
        raise SystemExit(1) from error


def _recorded(one: Wanted, reason: str) -> bool:
    """Whether the store knows why a run ended."""
    try:
        stored = record.read(one.folder)
    except HarnessError:
        return True  # said by the one who waits
    return stored is not None and stored.error == reason[:2000]
