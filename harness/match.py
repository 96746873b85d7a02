"""Which of our runs fill a cell of a published table, and in what they are unlike it.

A row names method and budget (and what else its `where` says), a column task, metric and split. Runs of another
backbone, split, metric, selection rule, a subset of the rows, or made by other code, are found too, shown, and never
judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from harness.bundle import Bundle, Held, possible, problem, single
from harness.cells import Cell, Row, Stale, gather
from harness.identity import group
from harness.paper import Column, Line, Published, Table
from harness.record import DONE, Record, Unreadable

OTHER_ROWS = ("subset:", "superset:")  # how remarks begin that say the data are not the official ones
FEW = 3


@dataclass(frozen=True)
class Ours:
    """Our side of a published cell.

    Attributes:
        cell: the runs that stand there, None where there are none or they may not be averaged. unlike: why they do not
            compare with the paper; () where they do. records: those counted. scores: seed -> score.
        absent: what became of runs that are not DONE ("FAILED 2").
    """

    cell: Cell | None = None
    unlike: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    scores: dict[int, float] = field(default_factory=dict)
    resolution: float = 0.0
    absent: str = ""

    @property
    def values(self) -> list[float]:
        """The scores in the order of their seeds."""
        return [self.scores[seed] for seed in sorted(self.scores)]


class Store:
    """The store's usable records by method, budget and task. remarks: on those that cannot be used."""

    def __init__(self, held: Iterable[Held], *, stale: Stale, include_stale: bool = False) -> None:
        self.stale, self.include_stale = stale, include_stale
        self.remarks: list[str] = []
        self._by_name: dict[tuple[str, str, str], list[Bundle]] = defaultdict(list)
        for one in held:
            if isinstance(one, Unreadable):
                self.remarks.append(f"unreadable: {one.reason}")
                continue
            bundle = one if isinstance(one, Bundle) else single(one)
            whole = bundle.sound() and problem(bundle.one) is None
            for part in [bundle] if whole else map(single, bundle.records()):
                if not whole and (reason := problem(part.one)):
                    self.remarks.append(f"unusable: {part.one.id}: {reason}; remove that folder and run again")
                else:
                    names = (str(part.one.identity[key]["name"]) for key in ("method", "budget", "task"))
                    self._by_name[tuple(names)].append(part)  # type: ignore[index]

    def named(self, row: Line, task: str) -> list[Record]:
        """The runs of a row's method, budget and `where` on a task."""
        found = self._by_name.get((row.method, row.budget, task), [])
        fitting = [one for one in found if all(at(one.one.identity, key) == value for key, value in row.where.items())]
        return [record for bundle in fitting for record in bundle.records()]

    def ours(self, row: Line, column: Column, published: Published) -> Ours:
        """Our side of one cell."""
        runs = self.named(row, column.task)
        same = [one for one in runs if one.identity["model"]["name"] == published.setting.model]
        choices = [self._read(members, column, published) for members in _groups(same or runs)]
        choices = [one for one in choices if not one.unlike] or choices
        if len(choices) > 1:
            return self._refused(same or runs, choices)
        return choices[0] if choices else Ours()

    def _read(self, runs: list[Record], column: Column, published: Published) -> Ours:
        """One configuration's runs as a cell of this column."""
        fullest = max(runs, key=lambda one: sum(map(len, _scores(one).values())))
        split, why = _unlike(fullest, column, published)
        scored = [self._usable(one, split, column.metric) for one in runs] if split else runs
        scored = [one for one in scored if one is not None]
        cells, remarks = gather(scored, stale=self.stale, include_stale=self.include_stale)
        self.remarks += [remark for remark in remarks if remark not in self.remarks]
        if not cells:
            return Ours(unlike=("its copies in the store contradict each other",))
        [cell] = cells
        absent = ", ".join(f"{state} {count}" for state, count in sorted(cell.absent.items()))
        if cell.stale or cell.absent["stale"]:
            notes = [note.text for note in cell.notes if note.text.startswith("stale")]
            why += [f"stale: {note.split(': ', 1)[1]}" for note in notes] if not self.include_stale else []
        if not split:
            return Ours(unlike=tuple(why), records=tuple(runs), absent=absent)
        counted = tuple(one for one in scored if one.state == DONE and one.identity["seed"] in cell.scores)
        whole = tuple(why) if cell.scores else ()
        return Ours(cell, whole, counted, cell.scores, cell.resolution, absent)

    def _usable(self, run: Record, split: str, metric: str) -> Record | None:
        """The run read for one of its scores; None, and a remark, where it has no such number."""
        score = _scores(run).get(split, {}).get(metric)
        if run.state != DONE or (isinstance(score, int | float) and not isinstance(score, bool) and possible(score)):
            return _rescored(run, split, metric)
        held = "lacks" if score is None else f"has {score!r}, no number in percent, as"
        remark = f"unusable: {run.id}: it {held} {metric} on {split}; remove that folder and run again"
        self.remarks += [remark] if remark not in self.remarks else []
        return None

    def _refused(self, runs: list[Record], choices: list[Ours]) -> Ours:
        """Several configurations for one cell: never averaged, said which."""
        cells, _ = gather(runs, stale=lambda _: [])
        listed = [cell.row.settings or cell.row.model for cell in cells]
        more = f" and {len(listed) - FEW} more" if len(listed) > FEW else ""
        reasons = dict.fromkeys(reason for one in choices for reason in one.unlike)
        which = f"{len(listed)} unlike configurations ({' | '.join(listed[:FEW])}{more}); choose one with --where"
        return Ours(unlike=(which, *reasons), records=tuple(record for one in choices for record in one.records))


def _groups(runs: list[Record]) -> list[list[Record]]:
    """Runs that differ in nothing but the seed, together."""
    found: dict[str, list[Record]] = defaultdict(list)
    for one in runs:
        found[group(one.identity)].append(one)
    return list(found.values())


def at(identity: dict[str, Any], key: str) -> Any:
    """The value at a dotted key of an identity; a group (`quantization`) stands for its name."""
    value: Any = identity
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value.get("name") if isinstance(value, dict) else value


def _scores(run: Record) -> dict[str, dict[str, Any]]:
    """Split -> metric -> score; the main one alone where a record holds nothing of that form."""
    if run.state != DONE:
        return {}
    main, held = run.science["main"], run.science.get("scores")
    whole = isinstance(held, dict) and all(isinstance(one, dict) for one in held.values())
    return held if isinstance(held, dict) and whole else {main["split"]: {main["metric"]: main["score"]}}


def _rescored(record: Record, split: str, metric: str) -> Record:
    """The same run read for another of its scores."""
    if record.state != DONE:
        return record
    main = {"split": split, "metric": metric, "score": _scores(record)[split][metric]}
    task = record.identity["task"] | {"score": metric, "reports": split}
    return replace(record, identity=record.identity | {"task": task}, science=record.science | {"main": main})


def _unlike(run: Record, column: Column, published: Published) -> tuple[str, list[str]]:
    """The split to read the score from ("" where this run has no such score), and why the run is unlike the cell."""
    setting, kept = published.setting, run.identity
    why = []
    if kept["model"]["name"] != setting.model:
        why.append(f"backbone: ours {kept['model']['name']}, paper {setting.model}")
    elif kept["model"].get("init", "pretrained") != "pretrained":
        why.append(f"backbone: ours has {kept['model']['init']} weights")
    if (scheme := kept["task"].get("splits", "official")) != setting.scheme:
        why.append(f"data: splits ours {scheme}, paper {setting.scheme}")
    limits = {key: (kept.get("data") or {}).get(key) for key in ("max_train_rows", "max_eval_rows")}
    told = [remark for remark in run.remarks if remark.startswith(OTHER_ROWS)]
    told = told or [f"{key}={value}" for key, value in limits.items() if value is not None]
    why += [f"data: {remark}" for remark in told]
    selects = (kept.get("train") or {}).get("select")
    if "unknown" not in (setting.selection, selects or "unknown") and selects != setting.selection:
        why.append(f"selection: ours {selects} checkpoint, paper {setting.selection}")
    if setting.statistic == "best":
        why.append("statistic: the paper prints the best of several runs")
    return _split(run, column, setting.split, why), why


def _split(run: Record, column: Column, split: str, why: list[str]) -> str:
    """The split to read the score from; adds to `why` where the run lacks it or its metric."""
    if run.state != DONE:
        return "" if split == "unknown" else split
    scores = _scores(run)
    split = run.science["main"]["split"] if split == "unknown" else split
    if split not in scores:
        why.append(f"split: ours {' and '.join(sorted(scores))}, paper {split}")
        return ""
    if column.metric not in scores[split]:
        why.append(f"metric: ours {', '.join(sorted(scores[split]))}, paper {column.metric}")
        return ""
    return split


def average(table: Table, row: Line, parts: dict[str, Ours]) -> Ours:
    """The paper's average over our cells of a row: one value a seed that all of them have."""
    if table.average is None:
        return Ours()
    used = {key: parts[key] for group in table.average.of for key in group}
    lacking = [table.columns[key].title for key, one in used.items() if not one.scores]
    reasons = dict.fromkeys(reason for one in used.values() for reason in one.unlike)
    if lacking:
        return Ours(absent=f"lacks {', '.join(lacking)}" if len(lacking) < len(used) else "", unlike=tuple(reasons))
    seeds = set.intersection(*(set(one.scores) for one in used.values()))
    if not seeds:
        return Ours(unlike=(*reasons, "seeds: no seed stands in every column"))
    scores = {seed: table.average.mean({key: one.scores[seed] for key, one in used.items()}) for seed in seeds}
    shown = Row(row.method, row.budget, row.method, "")
    records = tuple(record for one in used.values() for record in one.records)
    return Ours(Cell(shown, "", scores=scores), tuple(reasons), records, scores)
