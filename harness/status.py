"""`python -m harness.status ...`: which runs of a table, a grid or the whole store are done, and what the others are.

    python -m harness.status                          every run of results/runs
    python -m harness.status table=adalora_glue seed=0,1,2
    python -m harness.status method=lora,full seed=0,1,2 --watch

Running runs are shown with their progress and the time that is left, failed ones with the reason and where the log is.
Nothing but the store, its owners' processes and Slurm's queue is asked, and nothing heavy is imported.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness import launch, mirror, sweep
from harness.launch import guarded
from harness.record import DONE, RUNNING
from harness.state import LOST, MISSING, QUEUED, State, Survey
from harness.sweep import Found, Request

ORDER = (DONE, RUNNING, QUEUED, LOST)
SHOWN = 40  # lines of one state, unless --all


def show(root: Path, states: dict[str, State], survey: Survey, everything: bool) -> str:
    """The counts, then a line for each run that is not done."""
    counts = Counter(state.word for state in states.values())
    words = [*(word for word in ORDER if counts[word]), *sorted(counts.keys() - {*ORDER, MISSING})]
    words += [MISSING] if counts[MISSING] else []
    lines = [
        f"{root}: {len(states)} runs: " + (", ".join(f"{counts[word]} {word.lower()}" for word in words) or "none")
    ]
    if stale := sum(state.stale for state in states.values() if state.word == DONE):
        lines.append(f"  {stale} of the done ones are STALE: made by other code or versions (rerun=stale)")
    for word in words:
        found = [run for run, state in states.items() if state.word == word]
        if word != DONE:
            limit = len(found) if everything or word not in (MISSING, QUEUED) else SHOWN
            lines += [f"  {word.lower():<11} {run}{told(run, states[run], survey)}" for run in found[:limit]]
            lines += [f"  {word.lower():<11} and {len(found) - limit} more (--all)"] if len(found) > limit else []
    if waiting := mirror.offline(root):
        lines.append(f"{len(waiting)} offline W&B runs wait; to send them: wandb sync {root}/*/wandb/offline-run-*")
    return "\n".join([*lines, *([f"warning: {survey.jobs.problem}"] if survey.jobs.problem else [])])


def told(run: str, state: State, survey: Survey) -> str:
    """What there is to say of one run beside its name."""
    parts = [f"job {state.job}"] if state.job else []
    if state.at:
        parts.append(f"step {state.at.get('step')} of {state.at.get('of', 0):.0f}")
    if state.word == RUNNING:
        left = state.at.get("seconds_left")
        parts += [f"{duration(left)} of training left"] if left is not None else []
        parts += [f"last heard of {age:.0f} s ago"] if (age := survey.heartbeat_age(run)) is not None else []
    parts += [state.reason] if state.reason else []
    if state.word not in (RUNNING, QUEUED, MISSING, DONE):
        log = survey.root / run / "log.txt"
        found = log if log.is_file() else survey.jobs.log(run)
        parts += [f"log: {found}"] if found else []
        parts += [] if state.again else [f"not tried again by itself: --retry {state.word.lower()}"]
    return "".join(f"; {part}" for part in parts)


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `12 s`."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def of_store(root: Path, runs: Iterable[str] | None, everything: bool) -> str:
    """The page of one store, as it is now: of these runs, or of all that it holds or that wait for it."""
    survey = Survey(root)
    names = runs if runs is not None else sorted({*survey.records, *survey.jobs.live()})
    return show(root, {run: survey.of(run) for run in names}, survey, everything)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the page, once or until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.status", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="table=NAME | key=value", help="a grid, as of python -m harness -m")
    parser.add_argument("--root", type=Path, default=Path("results/runs"), help="the store, where no grid is given")
    parser.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often with --watch")
    parser.add_argument("--all", action="store_true", help="every run that is missing, not only the first ones")
    options = parser.parse_intermixed_args(argv)
    wanted: dict[Path, list[str] | None] = {options.root: None}

    def keep(found: Found) -> None:
        wanted.clear()
        for run, (one, _) in found.items():
            runs: Any = wanted.setdefault(Path(one.config.results.root), [])
            runs.append(run)

    def work() -> None:
        stores = [word.partition("=")[2] for word in options.words if word.startswith("results.root=")]
        if options.words and len(stores) == len(options.words):  # a store and no grid
            wanted.clear()
            wanted[Path(stores[-1])] = None
        elif options.words:
            rows, rest = launch.asked(options.words)
            sweep.request = Request(rows, instead=keep)
            launch.hydra_main(rest)
        while True:
            page = "\n".join(of_store(root, runs, options.all) for root, runs in wanted.items())
            print(f"\033[2J\033[H{page}" if options.watch and sys.stdout.isatty() else page, flush=True)
            if not options.watch:
                return
            time.sleep(options.every)

    try:
        return guarded(work)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
