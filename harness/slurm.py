"""`hydra/launcher=slurm`: the runs of a sweep as job arrays on a Slurm cluster, through submitit.

Each job makes one run, from the configuration as it was when the sweep was planned. A time limit's or a preemption's
warning makes the run write a checkpoint and the job requeue itself; the same bits come out. A job that is killed hard
costs its own run: the same command submits it again, and it goes on from its last checkpoint. Whether to wait for the
jobs is an option: the store and `python -m harness.status` know as much as the one who waits.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harness import claim, jobs, make, record
from harness.config import RunConfig
from harness.errors import ConfigError, HarnessError
from harness.interrupt import Stopped, hand_on
from harness.wanted import Wanted
from harness.workers import OwnLauncher

POLL_SECONDS = 5.0


class Job:
    """What one Slurm job does: one run. Pickled, so it holds plain data alone."""

    def __init__(self, config: RunConfig, run: str, requeues: int) -> None:
        self.config, self.run, self.requeues = config, run, requeues

    def __call__(self) -> None:
        """Make the run, in each of the job's tasks. The run's state is in its record, whatever ends this."""
        from submitit.helpers import TorchDistributedEnvironment

        if int(os.environ.get("SLURM_NTASKS") or 1) > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        try:
            self._same_run()
            make.make(self.config)
        except Stopped as stopped:
            again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) < self.requeues
            if again or stopped.number != signal.SIGUSR2:
                hand_on(stopped)  # submitit's: requeue after SIGUSR2, nothing after SIGTERM
            raise
        except claim.Busy as busy:
            print(busy, flush=True)
        except HarnessError as error:
            print(f"error: {self.run}: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2) from error

    def _same_run(self) -> None:
        """Raises ConfigError where this node sees other rows, weights or devices than the one that planned the run."""
        from harness import run

        found = run.plan(self.config).id
        if found != self.run:
            raise ConfigError(
                f"on this node the same configuration is {found}: its data, weights or device are not those of the "
                "node that submitted it; give hydra.launcher.device, data.root or model.path as this node sees them"
            )

    def checkpoint(self) -> Any:
        """Called by submitit before it requeues the job: the same again; the run finds its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Slurm(OwnLauncher):
    """Hydra makes it from conf/hydra/launcher/slurm.yaml, where every option is explained."""

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(options), resolve=True)  # type: ignore[assignment]
        self.where: str = options["device"] or ("cuda" if "gpu" in str(options["gres"] or "") else "cpu")

    def check(self) -> None:
        """Raises ConfigError where nothing can be submitted from here, NoAnswer where the controller is down."""
        try:
            import submitit  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError(
                "hydra/launcher=slurm needs submitit: pip install -c constraints.txt -e '.[slurm]'"
            ) from error
        jobs.cluster()

    def work(self, runs: Sequence[Wanted]) -> None:
        """Submit every run, and wait for them where `wait` says so."""
        self.check()
        submitted: dict[str, Wanted] = {}
        previous = ""
        for root, chunk in self._chunks(runs):
            made = self._submit(root, chunk, previous)
            previous = made[0].partition("_")[0]
            jobs.note(root, dict(zip(made, (one.id for one in chunk), strict=True)), *self.asked)
            submitted |= dict(zip(made, chunk, strict=True))
            print(f"submitted {len(chunk)} run{'s' if len(chunk) > 1 else ''} as Slurm job {previous}", flush=True)
        if self.options["wait"]:
            self._wait(submitted)
        else:
            print(
                "not waiting for them (hydra.launcher.wait=false); python -m harness.status says how they are",
                flush=True,
            )

    def _chunks(self, runs: Sequence[Wanted]) -> list[tuple[Path, list[Wanted]]]:
        """The runs of each store, in arrays that the cluster takes."""
        most = min(self.options["array_limit"] or sys.maxsize, jobs.array_limit())
        stores: dict[str, list[Wanted]] = {}
        for one in runs:
            stores.setdefault(one.config.results.root, []).append(one)
        return [
            (Path(root), found[at : at + most]) for root, found in stores.items() for at in range(0, len(found), most)
        ]

    def _submit(self, root: Path, chunk: list[Wanted], previous: str) -> list[str]:
        """One array; returns its jobs' ids. Raises ConfigError with what sbatch says of the options."""
        import submitit
        from submitit.core.utils import FailedJobError

        executor = submitit.AutoExecutor(
            folder=(root / jobs.FOLDER / "%j").absolute(), cluster="slurm", slurm_max_num_timeout=1_000_000
        )
        executor.update_parameters(**self._parameters(previous))
        requeues = self.options["max_requeues"] if self.options["requeue"] else 0
        work = [Job(self._placed(one.config), one.id, requeues) for one in chunk]
        try:
            return [job.job_id for job in executor.submit_array(work)]
        except FailedJobError as error:
            said = str(error.__cause__ or error).strip().splitlines()
            raise ConfigError(
                f"Slurm refuses the job: {said[-1] if said else error}; see conf/hydra/launcher/slurm.yaml"
            ) from error

    def _placed(self, config: RunConfig) -> RunConfig:
        threads = config.threads or self.options["cpus_per_task"]
        return replace(
            config, threads=threads, progress=False, device=self.where if config.device == "auto" else config.device
        )

    def _parameters(self, previous: str) -> dict[str, Any]:
        """The options as submitit calls them."""
        given = self.options
        more = dict(given["sbatch"] or {}) | ({"requeue": True} if given["requeue"] else {"no-requeue": True})
        parallel = given["parallelism"]
        if previous and parallel is not None:  # a limit over all arrays: one after the other
            more["dependency"] = f"afterany:{previous}"
        setup = ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK", *(given["setup"] or [])]
        named = {key: given[key] for key in ("partition", "account", "qos", "gres", "constraint")}
        slurm = named | {"setup": setup, "signal_delay_s": given["signal_seconds"], "additional_parameters": more}
        slurm["array_parallelism"] = parallel or 1_000_000
        found = {f"slurm_{key}": value for key, value in slurm.items() if value is not None}
        return found | {
            "name": "harness", "timeout_min": given["time_minutes"], "mem_gb": given["memory_gb"],
            "cpus_per_task": given["cpus_per_task"], "nodes": given["nodes"], "tasks_per_node": given["tasks_per_node"],
        }  # fmt: skip

    def _wait(self, submitted: dict[str, Wanted]) -> None:
        """Say how each run ends, by its record, once its job has left the queue. A controller that is away is waited for."""
        waiting = dict(submitted)
        try:
            while waiting:
                time.sleep(POLL_SECONDS if len(waiting) > 1 else POLL_SECONDS / 5)
                try:
                    live = jobs.queue()
                except jobs.NoAnswer as error:
                    print(f"{error}; asking again", file=sys.stderr, flush=True)
                    continue
                for job in [job for job in waiting if job not in live]:
                    self._tell(job, waiting.pop(job))
        except KeyboardInterrupt:
            print(
                "\nnot waiting any more; the jobs go on, and python -m harness.status says how they are",
                file=sys.stderr,
            )
            raise

    def _tell(self, job: str, one: Wanted) -> None:
        try:
            stored = record.read(one.folder)
        except HarnessError as error:
            stored, reason = None, str(error)
        else:
            reason = stored.error if stored and stored.error else "its job ended without a word (killed or cancelled?)"
        if stored is not None and stored.state == record.DONE:
            make.say(stored, one, done_before=False)
            return
        make.failed.append(one.id)
        log = Path(one.config.results.root) / jobs.FOLDER / job / f"{job}_0_log.err"
        state = stored.state if stored else "no record"
        print(
            f"error: {one.id}: {state}: {reason}; job {job}, {log}; the same command goes on",
            file=sys.stderr,
            flush=True,
        )
