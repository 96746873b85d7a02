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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep

from harness import record, sweep
from harness.errors import ConfigError, HarnessError
from harness.launch import guarded, hydra_main
from harness.record import DONE
from harness.sweep import AllCombinations, Request
from harness.wanted import Wanted


@dataclass
class Study:
    """One method (or any other combination of words) and what was tried for it."""

    words: list[str]
    space: dict[str, Any]
    study: Any

    def ask(self) -> tuple[Any, list[str]]:
        """The next trial, and its overrides."""
        trial = self.study.ask()
        return trial, [f"{key}={suggest(trial, key, kind)}" for key, kind in self.space.items()]

    def best(self) -> tuple[list[str], float, int]:
        """The best values as overrides, their score, and how many trials there were. Raises ConfigError without any."""
        scored = [trial for trial in self.study.trials if trial.value is not None]
        if not scored:
            raise ConfigError(f"{' '.join(self.words)}: no trial ended with a score; python -m harness.status says why")
        found = self.study.best_trial
        return [f"{key}={value}" for key, value in found.params.items()], found.value, len(self.study.trials)


def suggest(trial: Any, key: str, kind: Any) -> Any:
    """A value of one dimension."""
    if isinstance(kind, IntervalSweep):
        low, high = kind.start or 0, kind.end or 0
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(key, low, high, log="log" in kind.tags)
        return trial.suggest_float(key, float(low), float(high), log="log" in kind.tags)
    return trial.suggest_categorical(key, choices(kind))


def choices(kind: Any) -> list[Any]:
    """The values of a dimension that has finitely many."""
    if isinstance(kind, RangeSweep):
        return list(kind.range())
    return list(kind.list) if isinstance(kind, ChoiceSweep) else list(kind)


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
        parser = OverridesParser.create(config_loader=sweeper.context.config_loader)
        seeds = [word for word in arguments if word.startswith("seed=")] or [f"seed={sweeper.composed.seed}"]
        rest = parser.parse_overrides([word for word in arguments if not word.startswith("seed=")])
        space = {one.key_or_group: one.value() for one in rest if searched(one)}
        combined = BasicSweeper.split_arguments([one for one in rest if not searched(one)], None)
        studies = [self.study(sweeper, list(words), space) for batch in combined for words in batch]
        first = seeds[-1].partition("=")[2].split(",")[0]
        root = f"{sweeper.composed.results.root}.trials"
        for start in range(0, self.trials, self.batch):
            self.round(
                sweeper, studies, min(self.batch, self.trials - start), [f"seed={first}", f"results.root={root}"]
            )
        final: list[list[str]] = []
        for one in studies:
            words, score, count = one.best()
            name = " ".join(word for word in one.words if any(word not in other.words for other in studies))
            print(f"{name or 'best'}: {score:.2f} on the split that selects, of {count} trials: {' '.join(words)}")
            numbers = [word for seed in seeds[-1:] for word in seed.partition("=")[2].split(",")]
            final += [[*one.words, *words, f"recipe.trials={count}", f"seed={number}"] for number in numbers]
        sweeper.launch(sweeper.look(final, launcher := sweeper.chosen()), launcher)

    def study(self, sweeper: AllCombinations, words: list[str], space: dict[str, Any]) -> Study:
        """A study of these words. Raises ConfigError where there is nothing to search."""
        import optuna

        if not space:
            config = sweeper.context.config_loader.load_sweep_config(sweeper.composed, words)
            space = {str(key): list(values) for key, values in config.recipe.search.items()}
        if not space:
            raise ConfigError(
                f"{' '.join(words) or 'this run'}: nothing to search: its recipe lists no values; give a space such as "
                "'train.learning_rate=tag(log,interval(1e-5,1e-2))'"
            )
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        finite = None if any(isinstance(kind, IntervalSweep) for kind in space.values()) else {
            key: choices(kind) for key, kind in space.items()}  # fmt: skip
        if finite is not None and math.prod(map(len, finite.values())) <= self.trials:
            sampler: Any = optuna.samplers.GridSampler(finite, seed=self.seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=self.seed)
        return Study(words, space, optuna.create_study(direction="maximize", sampler=sampler))

    def round(self, sweeper: AllCombinations, studies: list[Study], count: int, more: list[str]) -> None:
        """`count` trials of each study, launched together."""
        asked = [(one, *one.ask()) for one in studies for _ in range(count) if not exhausted(one)]
        launcher = sweeper.chosen()
        jobs = [[*one.words, *words, *more] for one, _, words in asked]
        sweeper.launch(sweeper.look(jobs, launcher), launcher)
        for (one, trial, _), job in zip(asked, jobs, strict=True):
            [wanted] = [found for found, _ in sweeper.look([job], launcher).values()]
            score = selected(wanted)
            if score is None:
                one.study.tell(trial, state=_failed())
            else:
                one.study.tell(trial, score)


def exhausted(one: Study) -> bool:
    """Whether every point of a finite space was tried."""
    import optuna

    sampler = one.study.sampler
    return isinstance(sampler, optuna.samplers.GridSampler) and len(one.study.trials) >= len(sampler._all_grids)


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


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


def searched(one: Override) -> bool:
    """Whether a word gives a range to search, rather than values that are each wanted."""
    value = one.value() if one.is_sweep_override() else None
    return isinstance(value, Sweep) and (isinstance(value, IntervalSweep | RangeSweep) or not _plain(value))


def _plain(value: Any) -> bool:
    """Whether it was written `a,b` rather than choice(a,b)."""
    return isinstance(value, ChoiceSweep) and value.simple_form


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
