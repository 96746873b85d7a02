"""One search: its space, as Hydra's words give it, and what Optuna proposes, tried by harness/search.py."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from omegaconf import DictConfig, OmegaConf

from harness.errors import ConfigError

EXAMPLE = "'train.learning_rate=tag(log,interval(1e-5,1e-2))'"


def searched(one: Override) -> bool:
    """Whether a word gives a range to search, rather than values that are each wanted."""
    value = one.value() if one.is_sweep_override() else None
    return isinstance(value, Sweep) and not (isinstance(value, ChoiceSweep) and value.simple_form)


def plan(words: list[str], space: dict[str, Any], config: DictConfig, trials: int, seed: int) -> Study:
    """A study of these words.

    Args:
        space: what the command line gives; empty: what the recipe of `config` lists. config: composed of the words.
        trials: how many it gets, or as many as the space has points. seed: of the sampler.

    Raises:
        ConfigError: there is nothing to search.
    """
    import optuna

    space = dict(space) or {str(key): list(values) for key, values in config.recipe.search.items()}
    if not space:
        raise ConfigError(
            f"{' '.join(words) or 'this run'}: nothing to search: its recipe lists no values; give a space such as "
            f"{EXAMPLE}"
        )
    for key, kind in space.items():
        if isinstance(kind, IntervalSweep):
            low, high = ends(key, kind)
            if type(OmegaConf.select(config, key)) is int:  # interval() makes floats of whole numbers
                space[key] = replace(kind, start=math.ceil(low), end=math.floor(high))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    points = grid(space, trials)
    for point in points:
        study.enqueue_trial(point)
    return Study(words, space, len(points) or trials, study)


def grid(space: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """Every point of a space that has at most so many of them, else none."""
    if any(isinstance(kind, IntervalSweep) for kind in space.values()):
        return []
    values = [choices(kind) for kind in space.values()]
    if math.prod(map(len, values)) > most:
        return []
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]


@dataclass
class Study:
    """One method (or any other combination of words) and what was tried for it.

    Attributes:
        words: its overrides. space: what is searched, by key. count: how many trials it gets.
        study: Optuna's; each of its trials keeps its overrides.
    """

    words: list[str]
    space: dict[str, Any]
    count: int
    study: Any = field(repr=False)

    def ask(self) -> tuple[Any, list[str]]:
        """The next trial, and its overrides."""
        trial = self.study.ask()
        found = [f"{key}={suggest(trial, key, kind)}" for key, kind in self.space.items()]
        trial.set_user_attr("words", found)
        return trial, found

    def tell(self, trial: Any, score: float | None) -> None:
        """A trial's score; None: it failed."""
        from optuna.trial import TrialState

        self.study.tell(trial, score, state=TrialState.FAIL if score is None else None)

    def best(self) -> tuple[list[str], float, int]:
        """The best values as overrides, their score, and how many trials there were. Raises ConfigError without any."""
        if not any(trial.value is not None for trial in self.study.trials):
            raise ConfigError(f"{' '.join(self.words)}: no trial ended with a score; what each ended with stands above")
        found = self.study.best_trial
        return found.user_attrs["words"], found.value, len(self.study.trials)


def suggest(trial: Any, key: str, kind: Any) -> Any:
    """A value of one dimension: a whole number where both ends are, else one of four digits, which a person can read."""
    if not isinstance(kind, IntervalSweep):
        return trial.suggest_categorical(key, choices(kind))
    low, high = ends(key, kind)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log="log" in kind.tags)
    return f"{trial.suggest_float(key, low, high, log='log' in kind.tags):.4g}"


def ends(key: str, kind: IntervalSweep) -> tuple[float, float]:
    """The ends of an interval. Raises ConfigError for one that holds nothing."""
    low, high = kind.start, kind.end
    if low is None or high is None or not low < high:
        raise ConfigError(f"{key}: interval({low},{high}) holds nothing: the lower end stands first")
    if "log" in kind.tags and low <= 0:
        raise ConfigError(
            f"{key}: interval({low:g},{high:g}) has no logarithm: begin above 0, or leave tag(log, ...) out"
        )
    return low, high


def choices(kind: Any) -> list[Any]:
    """The values of a dimension that has finitely many."""
    if isinstance(kind, RangeSweep):
        return list(kind.range())
    return list(kind.list) if isinstance(kind, ChoiceSweep) else list(kind)
