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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import launch, mirror, standing, sweep
from harness.launch import guarded
from harness.paths import STORE, store
from harness.record import DONE, RUNNING
from harness.standing import Found
from harness.state import LOST, MISSING, QUEUED, State, Survey
from harness.sweep import Request
from harness.wanted import Wanted

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
    if failed := mirror.failures(root):
        run, why = next(iter(failed.items()))
        lines.append(
            f"{len(failed)} runs were not mirrored as asked; {run}: {'; '.join(why)} ({root / run / mirror.LOG})"
        )
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


def of_store(root: Path, wanted: Sequence[Wanted] | None, everything: bool) -> str:
    """The page of one store, as it is now: of these runs, or of all that it holds or that wait for it."""
    survey = Survey(root)
    if wanted is None:
        return show(
            root, {run: survey.of(run) for run in sorted({*survey.records, *survey.jobs.live()})}, survey, everything
        )
    found = standing.standing(wanted, {one.config.results.root: survey for one in wanted})
    states = {
        state.elsewhere[1] if state.elsewhere else run: survey.of(state.elsewhere[1]) if state.elsewhere else state
        for run, (_, state) in found.items()
    }
    moved = [f"note: {line}" for line in standing.made_elsewhere(found)]
    page = show(root, states, survey, everything)
    return "\n".join([page, *moved, *(f"note: {line}" for line in standing.unknown(found))])


def stores(words: Sequence[str], root: Path | None) -> dict[Path, list[Wanted] | None]:
    """The stores to show, and which runs of each; None: all of them. Raises ConfigError for a store that is not there."""
    given = [word.partition("=")[2] for word in words if word.startswith("results.root=")]
    if len(given) == len(words):  # a store and no grid
        at = Path(given[-1]) if given else root or STORE
        return {store(at): None}
    wanted: dict[Path, list[Wanted] | None] = {}

    def keep(found: Found) -> None:
        for one, _ in found.values():
            runs: Any = wanted.setdefault(Path(one.config.results.root), [])
            runs.append(one)

    asked = launch.asked(words)
    sweep.request = Request(asked.rows, instead=keep, here=False)
    launch.hydra_main(asked.rest)
    return wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Print the page, once or until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.status", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="table=NAME | key=value", help="a grid, as of python -m harness -m")
    parser.add_argument("--root", type=Path, help=f"the store, where no grid is given; {STORE} unless given")
    parser.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often with --watch")
    parser.add_argument("--all", action="store_true", help="every run that is missing, not only the first ones")
    options = parser.parse_intermixed_args(argv)

    def work() -> None:
        wanted = stores(options.words, options.root)
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
