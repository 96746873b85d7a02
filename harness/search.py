"""`python -m harness.search ...`: learning rates and sizes, searched with the same number of trials for every method.

    python -m harness.search method=lora,houlsby task=glue/rte seed=0,1,2 --trials 20
    python -m harness.search method=lora,pfeiffer 'train.learning_rate=tag(log,interval(1e-5,1e-2))' --trials 20

What is searched is what the words give as interval(), range() or choice(), else what the recipe lists (`search`). Every
other combination of the words is a study of its own. A trial is a run like any other, in a store beside the results
(`results/runs.trials`), with the first seed; a study hears of its score on the split that selects, never of another. The
best values are then run with every seed, into the results, and their records say how many trials chose them. The sampler
is seeded and scores are read from the store, so the same command replays what is done and goes on, on any launcher.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from harness import record, remarks, study, sweep
from harness.claim import Claim
from harness.errors import ConfigError, HarnessError
from harness.launch import guarded, hydra_main
from harness.record import DONE
from harness.state import ALIVE
from harness.study import Study, searched
from harness.sweep import AllCombinations, Request
from harness.wanted import Composer, Wanted


class Search:
    """What the sweeper does instead of one pass: ask, launch, read the store, tell.

    Args:
        trials: of every study. batch: how many are asked for at a time; more run in parallel and know less. seed: of
            the sampler.
    """

    def __init__(self, trials: int, batch: int, seed: int) -> None:
        self.trials, self.batch, self.seed = trials, batch, seed

    def __call__(self, sweeper: AllCombinations, arguments: list[str]) -> None:
        """All trials of all studies, then the best of each with every seed."""
        if not getattr(sweeper.chosen(), "options", {}).get("wait", True):
            raise ConfigError("a search waits for its trials: leave hydra.launcher.wait=true")
        words = OverridesParser.create(config_loader=sweeper.context.config_loader).parse_overrides(arguments)
        if any(one.key_or_group == "table" for one in words):
            raise ConfigError("a search takes words such as method=lora,houlsby task=glue/rte, not a table")
        seeded = [one for one in words if one.key_or_group == "seed"]
        seeds = [job[0] for job in _combined(seeded)] if seeded else [f"seed={sweeper.composed.seed}"]
        space = {one.key_or_group: one.value() for one in words if searched(one) and one not in seeded}
        compose, studies = sweeper.context.config_loader.load_sweep_config, []
        for job in _combined([one for one in words if one.key_or_group not in ("seed", *space)]):
            studies.append(study.plan(job, space, compose(sweeper.composed, job), self.trials, self.seed))
        if len({one.count for one in studies}) > 1:
            told = ", ".join(f"{name_of(one, studies)} {one.count}" for one in studies)
            print(f"warning: unequal numbers of trials, since the recipes list so many values: {told}", file=sys.stderr)
        trial = [seeds[0], f"results.root={sweeper.composed.results.root}.trials"]
        most = max(one.count for one in studies)
        for start in range(0, most, self.batch):
            each = f" of each of {len(studies)} studies" if len(studies) > 1 else ""
            print(f"trials {start + 1} to {min(start + self.batch, most)} of {most}{each}:", flush=True)
            self.round(sweeper, studies, start, trial)
        self.finish(sweeper, studies, seeds)

    def round(self, sweeper: AllCombinations, studies: list[Study], start: int, more: list[str]) -> None:
        """The next trials of each study, launched together. Raises ConfigError where somebody else is making one."""
        jobs, asked = [], []
        for one in studies:
            for _ in range(min(self.batch, one.count - start)):
                trial, words = one.ask()
                asked.append((one, trial))
                jobs.append(["results.keep_adapter=false", *one.words, *words, *more])
        launcher = sweeper.chosen()
        sweeper.launch(sweeper.look(jobs, launcher), launcher)
        composer = Composer(sweeper.context.config_loader, sweeper.composed, getattr(launcher, "where", None))
        for (one, trial), job in zip(asked, jobs, strict=True):
            [wanted] = composer.wanted([job]).values()
            score = selected(wanted)
            if score is None and sweeper.look([job], launcher)[wanted.id][1].word in ALIVE:
                raise ConfigError(f"{wanted.id} is being made elsewhere: the same command goes on when it has ended")
            one.tell(trial, score)

    def finish(self, sweeper: AllCombinations, studies: list[Study], seeds: list[str]) -> None:
        """The best of each study with every seed; their records say how many trials chose them."""
        final: list[list[str]] = []
        for one in studies:
            words, score, count = one.best()
            print(f"{name_of(one, studies)}: {' '.join(words)}, the best of {count} trials ({score:.2f} on the split that "
                  "selects)", flush=True)  # fmt: skip
            final += [[*one.words, *words, f"recipe.trials={count}", seed] for seed in seeds]
        launcher = sweeper.chosen()
        found = sweeper.look(final, launcher)
        sweeper.launch(found, launcher)
        for wanted, _ in found.values():
            noted(wanted)


def _combined(words: list[Override]) -> list[list[str]]:
    """Every combination of the values that words give with commas."""
    return [list(job) for batch in BasicSweeper.split_arguments(words, None) for job in batch]


def name_of(one: Study, studies: list[Study]) -> str:
    """The words that tell a study from the others."""
    return " ".join(word for word in one.words if any(word not in other.words for other in studies)) or "best"


def selected(wanted: Wanted) -> float | None:
    """A finished run's score on the split that selects; None where it is not DONE or the score is not a number."""
    try:
        stored = record.read(wanted.folder)
    except HarnessError:
        return None
    if stored is None or stored.state != DONE:
        return None
    score = float(stored.science["scores"][wanted.config.task.selects][wanted.config.task.score])
    return score if math.isfinite(score) else None


def noted(wanted: Wanted) -> None:
    """Let the record of a run that was there before this search say how many trials chose its values."""
    stored, count = record.read(wanted.folder), wanted.config.recipe.trials
    if stored is None or stored.state != DONE or stored.config["recipe"]["trials"] == count:
        return
    before, now = (remarks.chosen_by(n, wanted.config.task.selects) for n in (stored.config["recipe"]["trials"], count))
    with Claim(wanted.folder, wanted.config.results.heartbeat_seconds):
        record.write(wanted.folder, replace(
            stored, config=stored.config | {"recipe": stored.config["recipe"] | {"trials": count}},
            recipe=asdict(wanted.config.recipe), remarks=[*(one for one in stored.remarks if one != before), now],
        ))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Search, then run the best; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.search", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="key=value", help="as of python -m harness -m")
    parser.add_argument("--trials", type=int, default=20, help="of every method (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="trials of a method at a time (default: %(default)s)")
    parser.add_argument("--sampler-seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_intermixed_args(argv)

    def work() -> None:
        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError("the search needs optuna: pip install -c constraints.txt -e '.[search]'") from error
        if options.trials < 1 or options.batch < 1:
            raise ConfigError("--trials and --batch are numbers from 1 on")
        sweep.request = Request(search=Search(options.trials, options.batch, options.sampler_seed), quiet=True)
        hydra_main(options.words)

    return guarded(work)


if __name__ == "__main__":
    raise SystemExit(main())
