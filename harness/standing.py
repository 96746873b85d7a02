"""How wanted runs stand in a store: by their ids; else as made on the other device; else, where their content is not
known here, by their names and everything in their configuration.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from harness.record import DONE, Record
from harness.state import ALIVE, MISSING, State, Survey
from harness.wanted import ON_HUB, Wanted, like

Found = dict[str, tuple[Wanted, State]]  # by run id
KINDS = {"data": "data of", "weights": "the backbone"}
ASKS = {
    "cuda": "hydra/launcher=slurm hydra.launcher.device=cuda, or device=cuda on a machine with a GPU",
    "cpu": "device=cpu",
}


def standing(wanted: Iterable[Wanted], surveys: Mapping[str, Survey]) -> Found:
    """Each run and what became of it. One whose content is not known here takes the id of the run that it is."""
    stores = {root: Store(survey) for root, survey in surveys.items()}
    found: Found = {}
    for one in wanted:
        known, state = stores[one.config.results.root].of(one)
        found[known.id] = known, state
    return found


class Store:
    """A survey of a store that is asked for runs by more than their ids."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self._named: dict[str, list[str]] = defaultdict(list)
        self._likes: dict[tuple[str, ...], dict[str, list[str]]] = {}
        self._taken: set[str] = set()
        self._queue: dict[str, list[str]] = defaultdict(list)
        for run in survey.jobs.live().keys() - survey.records.keys():
            self._queue[_names(run)].append(run)

    def of(self, one: Wanted) -> tuple[Wanted, State]:
        """A run, under the id that it has in the store, and its state. State.elsewhere: the same on another device."""
        state = self.survey.of(one.id)
        if state.word != MISSING:
            return one, state
        if not one.lacks:
            others = [(at, run) for at, run in one.elsewhere if self.survey.of(run).word != MISSING]
            return one, replace(state, elsewhere=others[0] if others else None)
        (own, *_), first = one.likes, None
        for at in one.likes:
            if run := self._like(one, at):
                if at == own:
                    return replace(one, id=run), self.survey.of(run)
                first = first or (at, run)
        return one, replace(state, elsewhere=first)

    def _like(self, one: Wanted, device: str) -> str | None:
        """The run of the same names and configuration on this device: a finished one before others."""
        lacks = tuple(one.lacks)
        named = _names(one.id)
        if (key := (named, *lacks)) not in self._likes:
            self._likes[key] = self._by_likeness(named, lacks)
        runs = self._likes[key].get(one.likes[device], [])
        order = sorted(runs, key=lambda run: (word := self.survey.of(run).word) != DONE and 1 + (word not in ALIVE))
        return order[0] if order else self._queued(named)

    def _queued(self, named: str) -> str | None:
        """A job of these names that has not begun: its configuration is not known here."""
        for run in self._queue.get(named, ()):
            if run not in self._taken:
                self._taken.add(run)
                return run
        return None

    def _by_likeness(self, names: str, lacks: tuple[str, ...]) -> dict[str, list[str]]:
        if not self._named:
            for run in self.survey.records:
                self._named[_names(run)].append(run)
        found: dict[str, list[str]] = defaultdict(list)
        for run in self._named[names]:
            known = self.survey.records[run]
            if isinstance(known, Record) and {"content", "seed"} <= known.identity.keys():
                found[like(known.identity, lacks)].append(run)
        return found


def _names(run: str) -> str:
    """`task.model.method.budget.s0` of a run's id."""
    return run.rpartition(".")[0]


def elsewhere(found: Found) -> list[str]:
    """What to say, before they are made here, of runs that the store has as made on the other device."""
    return [
        f"{count} of these runs stand in the store as made on {at}, and are other runs here; to ask for those: {ASKS[at]}"
        for at, count in _counts(found).items()
    ]


def made_elsewhere(found: Found) -> list[str]:
    """The same, where they are counted."""
    return [
        f"{count} of these runs are counted as made on {at}; fill would make them again here: add {ASKS[at]}"
        for at, count in _counts(found).items()
    ]


def _counts(found: Found) -> Counter[str]:
    return Counter(state.elsewhere[0] for _, state in found.values() if state.elsewhere)


def unknown(found: Found) -> list[str]:
    """What to say of runs that were looked for without their rows or weights."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    reasons: dict[str, None] = {}
    for one, _ in found.values():
        for part, why in one.lacks.items():
            names[part][one.config.task.name if part == "data" else one.config.model.name] = None
            reasons[why.splitlines()[0]] = None
    if not names:
        return []
    said = "; ".join(f"{KINDS[part]} {', '.join(listed)}" for part, listed in names.items())
    why = next((reason for reason in reasons if reason != ON_HUB), ON_HUB)
    return [
        f"not read here: {said} ({why}): these runs are matched by names and configuration; an id that ends in ? is "
        "not known yet; launching needs what is not here"
    ]
