"""One run here, or its stored record, and its line: what a command, a worker and a Slurm job have in common."""

from __future__ import annotations

import sys
from typing import Any

from harness import device, distributed, progress, record
from harness.config import RunConfig
from harness.errors import HarnessError
from harness.interrupt import Stopped

failed: list[str] = []  # ids of the runs that did not end DONE; __main__ turns them into the exit code


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
