"""Many runs at once on this machine: Hydra's multirun (`-m`), each run in a process of its own.

The launcher composes every job and looks which are done (nothing heavy is imported for that); the rest go to worker
processes, one CPU thread each where several work, a GPU each where there are GPUs. A worker that is killed costs its own
run and no other. State is what the store says, never what a worker returned.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import connection
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from harness import compose, device, distributed, progress, record
from harness.config import RunConfig
from harness.errors import ConfigError, HarnessError
from harness.interrupt import Stopped

failed: list[str] = []  # ids of the runs that did not end DONE; __main__ turns them into the exit code


def register() -> None:
    """Let Hydra find our sweeper and launcher by the names in conf/hydra/.

    Hydra's lookup table takes names of the hydra_plugins package alone; only the name is checked.
    """
    for plugin in (AllCombinations, LocalWorkers):
        Plugins.instance().class_name_to_class[f"hydra_plugins.harness.{plugin.__name__}"] = plugin


def refuse_launcher(config: DictConfig) -> None:
    """Raises ConfigError where a launcher was asked for without -m: Hydra would run here, in silence."""
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get().runtime.choices["hydra/launcher"]
    if chosen not in ("local", "basic"):
        raise ConfigError(f"hydra/launcher={chosen} works on sweeps only: add -m")


def make(config: RunConfig) -> None:
    """One run here, or its stored record; prints its line. A failure is noted in `failed` and in the store.

    Of several processes, which `accelerate launch` starts, the first one speaks.
    """
    from harness import run

    with distributed.joined(device.resolve(config.device)) as group:
        plan = run.plan(config)
        stored = run.finished(plan)
        if stored is not None and group.size == 1:
            say(stored, plan, done_before=True)
            return
        try:
            done = run.run(plan, group)
        except Stopped as stopped:
            if group.leads:
                print(f"{plan.id}: {stopped}", file=sys.stderr)
            raise
        except HarnessError as error:
            if not hasattr(error, "state"):
                raise
            group.agree(error)
            failed.append(plan.id)
            if group.leads:
                print(f"error: {plan.id}: {error}", file=sys.stderr)
        else:
            if group.leads:
                say(done, plan, done_before=stored is not None)


def say(done: record.Record, plan: Any, *, done_before: bool) -> None:
    """Print the run's line; before it, whether it was there already, and whether today's code would still give it."""
    from harness import provenance

    if done_before:
        differs = provenance.stale(done)
        note = (
            f"already done, but STALE: made by other {', '.join(differs)}; rerun=stale makes it again"
            if differs
            else ""
        )
        print(note or "already done (rerun=always makes it again)")
    print(progress.line(done, str(plan.folder)), flush=True)


class AllCombinations(Sweeper):
    """Hydra's basic sweeper, without the multirun.yaml that it would leave in the current folder."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the launcher needs."""
        self.context, self.task_function, self.composed = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Hand every combination of the arguments to the launcher."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        batches = BasicSweeper.split_arguments(parser.parse_overrides(arguments), None)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task_function, config=self.composed
        )
        return [launcher.launch([list(job) for batch in batches for job in batch], 0)]


class LocalWorkers(Launcher):
    """Hydra's launcher for one machine. `workers=null`: one a GPU where there are GPUs, else one a core."""

    def __init__(self, workers: int | None) -> None:
        self.workers = workers

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composing a job needs."""
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Make the runs that are not done yet. Bad input in any job stops the sweep before its first run."""
        from harness import run

        if distributed.size() > 1:
            raise ConfigError("several processes make one run together; start a sweep (-m) without accelerate launch")
        plans = {plan.id: plan for plan in (run.plan(self._composed(list(words))) for words in job_overrides)}
        missing = []
        for plan in plans.values():
            if stored := run.finished(plan):
                say(stored, plan, done_before=True)
            else:
                missing.append(plan)
        self._work(missing)
        if len(plans) > 1:
            print(
                f"{len(plans) - len(failed)} of {len(plans)} runs are done"
                + (f"; not: {', '.join(failed)}" if failed else "")
            )
        return []

    def _composed(self, overrides: list[str]) -> RunConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        chosen, here = (c.hydra.runtime.choices["hydra/launcher"] for c in (config, self.config))
        if chosen != here:
            raise ConfigError(
                f"hydra/launcher={chosen} stands inside the swept configuration; give it on the command line"
            )
        with open_dict(config):
            del config["hydra"]
        return compose.checked(config)

    def _work(self, plans: list[Any]) -> None:
        """Run every plan in a process of its own, at most `workers` at a time."""
        slots = list(range(self.workers or device.gpus() or len(os.sched_getaffinity(0))))[: len(plans)]
        start = multiprocessing.get_context("forkserver")
        start.set_forkserver_preload(
            ["torch", "transformers", "harness.quantization", "peft", "harness.train", "harness.evaluate"]
        )
        waiting = list(plans)
        working: dict[Any, tuple[Any, Any, int]] = {}
        while waiting or working:
            while waiting and slots:
                plan, slot = waiting.pop(0), slots.pop(0)
                alone = self.workers == 1 or len(plans) == 1
                process = start.Process(target=_worker, args=(plan.config, slot, alone), name=plan.id)
                process.start()
                working[process.sentinel] = (process, plan, slot)
            for sentinel in connection.wait(list(working)):
                process, plan, slot = working.pop(sentinel)
                process.join()
                slots.append(slot)
                self._tell(process, plan)

    def _tell(self, process: Any, plan: Any) -> None:
        """Print how a run ended, by what the store says."""
        try:
            stored = record.read(plan.folder)
        except HarnessError as error:
            stored, reason = None, str(error)
        else:
            reason = stored.error if stored and stored.error else f"its process ended with code {process.exitcode}"
        if stored is not None and stored.state == record.DONE:
            say(stored, plan, done_before=False)
            return
        failed.append(plan.id)
        print(f"error: {plan.id}: {stored.state if stored else 'no record'}: {reason}", file=sys.stderr, flush=True)


def _worker(config: RunConfig, slot: int, alone: bool) -> None:
    """In the worker's process: one run, quietly; its record tells how it ended."""
    from harness import run

    if device.gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot)
    threads = config.threads if config.threads is not None or alone else 1
    try:
        run.run(run.plan(replace(config, threads=threads, progress=config.progress and alone)))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error
