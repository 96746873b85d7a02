"""Many runs at once: Hydra's multirun (`-m`) and `python -m harness.fill`, on whichever launcher is chosen.

The sweeper works out which runs are wanted, asks the store which of them are done, alive or waiting in a queue, and
hands the rest to the launcher: LocalWorkers, Slurm, or one of Hydra's own. Nothing heavy is imported for that.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from harness import pack, record, standing
from harness.errors import ConfigError
from harness.make import failed, say
from harness.record import DONE
from harness.slurm import Slurm
from harness.standing import Found
from harness.state import ALIVE, UNREADABLE, State, Survey
from harness.wanted import Composer, Wanted
from harness.workers import LocalWorkers, OwnLauncher


@dataclass
class Request:
    """What `harness.fill`, `harness.status` and the search ask of the sweeper beyond the overrides of `-m`.

    Attributes:
        rows: overrides that every combination of the command line is made with in turn (a table's cells).
        choose: which of the wanted runs to make, by their states; None: all that are not done.
        instead: called with what was found, in place of launching anything.
        quiet: no line for runs that are done already.
        search: called in place of all this (harness/search.py).
        table: the published table that is asked for, "" where it is a grid.
        here: whether all content must be here, as for launching; else what is not is left unknown.
    """

    rows: list[list[str]] = field(default_factory=lambda: [[]])
    choose: Callable[[State], bool] | None = None
    instead: Callable[[Found], None] | None = None
    quiet: bool = False
    search: Callable[[AllCombinations, list[str]], None] | None = None
    table: str = ""
    here: bool = True


request = Request()


def register() -> None:
    """Let Hydra find our sweeper and launchers by the names in conf/hydra/.

    Hydra's lookup table takes names of the hydra_plugins package alone; only the name is checked.
    """
    for plugin in (AllCombinations, LocalWorkers, Slurm):
        Plugins.instance().class_name_to_class[f"hydra_plugins.harness.{plugin.__name__}"] = plugin


def refuse_launcher(config: DictConfig) -> None:
    """Raises ConfigError where a launcher was asked for without -m: Hydra would run here, in silence."""
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get().runtime.choices["hydra/launcher"]
    if chosen not in ("local", "basic"):
        raise ConfigError(f"hydra/launcher={chosen} works on sweeps only: add -m")


class AllCombinations(Sweeper):
    """Every combination of the values given with commas, as Hydra's basic sweeper makes them; only what is missing runs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composing and a launcher need."""
        self.context, self.task_function, self.composed = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Make what is wanted and not done. Bad input in any run stops the sweep before its first one."""
        self.arguments = arguments
        if request.search is not None:
            return request.search(self, arguments)
        launcher = self.chosen()
        found = self.look(self.combinations(arguments), launcher)
        if request.instead is not None:
            return request.instead(found)
        self.launch(found, launcher)
        return None

    def chosen(self) -> Any:
        """The chosen launcher. `where`, `check` and `work` are our own ones' additions to Hydra's interface."""
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task_function, config=self.composed
        )

    def combinations(self, arguments: list[str]) -> list[list[str]]:
        """The overrides of every run: each of the request's rows with each combination of the arguments."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        batches = BasicSweeper.split_arguments(parser.parse_overrides(arguments), None)
        jobs = [job for batch in batches for job in batch]
        if not jobs:
            raise ConfigError("no run is left: one of the words holds no value; of range(FIRST,END) END is not a part")
        return [[*row, *job] for row in request.rows for job in jobs]

    def look(self, jobs: list[list[str]], launcher: Any) -> Found:
        """Every wanted run and what became of it."""
        where = getattr(launcher, "where", None)
        wanted = Composer(self.context.config_loader, self.composed, where, here=request.here).wanted(jobs)
        pack.check(wanted.values(), here=isinstance(launcher, LocalWorkers))
        surveys = {root: Survey(Path(root)) for root in {one.config.results.root for one in wanted.values()}}
        for survey in surveys.values():
            if survey.jobs.problem:
                print(f"warning: {survey.jobs.problem}", file=sys.stderr)
        return standing.standing(wanted.values(), surveys)

    def launch(self, found: Found, launcher: Any) -> None:
        """Hand the launcher what is to be made, and sum up."""
        todo = [one for one, state in found.values() if self.to_make(one, state)]
        self.tell(found)
        for line in standing.elsewhere(found):
            print(f"note: {line}", file=sys.stderr, flush=True)
        if todo and isinstance(launcher, OwnLauncher):
            launcher.asked = request.table, self.arguments
            launcher.work(todo)
        elif todo:
            launcher.launch([list(one.words) for one in todo], 0)
        if len(found) > 1:
            summary(found, len(todo), waited=getattr(launcher, "options", {}).get("wait", True))

    @staticmethod
    def to_make(one: Wanted, state: State) -> bool:
        """Whether a run is to be made now: by the request's rule, else whenever it is not done or under way."""
        if state.word in ALIVE:
            return False
        if state.word == DONE:
            return one.config.rerun == "always" or (one.config.rerun == "stale" and state.stale)
        return True if request.choose is None else request.choose(state)

    def tell(self, found: Found) -> None:
        """What is not made now, and why."""
        for one, state in found.values():
            if state.word == UNREADABLE:
                failed.append(one.id)
                print(f"error: {one.id}: {state.reason}", file=sys.stderr)
            elif state.word in ALIVE:
                print(f"{one.id}: {state.word.lower()} already{f' as job {state.job}' if state.job else ''}")
            elif state.word == DONE and not request.quiet and not self.to_make(one, state):
                stored = record.read(one.folder)
                if stored is not None:
                    say(stored, one, done_before=True)


def summary(found: Found, tried: int, *, waited: bool) -> None:
    """One last line: how many of the runs that were asked for are done, and what the others are."""
    before = Counter(state.word for _, state in found.values())
    if not waited:
        print(f"{before[DONE]} of {len(found)} runs are done, {tried} were submitted now")
        return
    elsewhere = sum(before[word] for word in ALIVE)
    left = sum(1 for one, state in found.values() if state.word not in (DONE, *ALIVE)) - tried
    done = len(found) - len(failed) - elsewhere - max(left, 0)
    more = f"; not: {', '.join(failed)}" if failed else ""
    more += f"; under way elsewhere: {elsewhere}" if elsewhere else ""
    more += f"; not tried again: {left} (python -m harness.status says why)" if left > 0 else ""
    print(f"{done} of {len(found)} runs are done{more}")
