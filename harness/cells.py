"""Records -> the cells of a table. Runs share one only if they differ in nothing but the seed; none is dropped unsaid.

A row is a method on a backbone within a budget. Where one task holds several configurations of it, each gets a row of
its own, labelled with the keys that differ (`train.learning_rate=0.001`). Runs that are not DONE, stale, on a subset
of the data, doubled or unreadable leave a note.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness import identity, stats
from harness.record import DONE, RUNNING, Record, Unreadable

PARAMS = ("adapter", "active", "head", "total")
OF_ONE_TASK = ("task.", "content.data")  # differ between any two tasks: tell configurations apart within one only
LISTED = 5  # modules and packages named of those that make a run stale
Stale = Callable[[Record], list[str]]


class Row(NamedTuple):
    """What a line of the table is about."""

    model: str
    budget: str
    method: str
    settings: str


class Note(NamedTuple):
    """Something a reader must know about a cell. `lists` says whether the runs it is about are named one by one."""

    text: str
    lists: bool = True


@dataclass
class Cell:
    """One configuration on one task.

    Attributes:
        row, task, metric, split: where it stands, and what the score is ("" while no run is DONE).
        scores: seed -> main score in percent, of the runs that count. resolution: the step between possible scores.
        stale: whether any of them was made by other code or versions than the present ones.
        absent: state -> number of runs that do not count. params: of PARAMS, the distinct values of the runs.
        notes: note -> ids of the runs. like: equal where two cells' scores may be compared.
    """

    row: Row
    task: str
    metric: str = ""
    split: str = ""
    scores: dict[int, float] = field(default_factory=dict)
    resolution: float = 0.0
    stale: bool = False
    absent: Counter[str] = field(default_factory=Counter)
    params: dict[str, list[int]] = field(default_factory=dict)
    notes: dict[Note, list[str]] = field(default_factory=dict)
    like: str = ""

    @property
    def values(self) -> list[float]:
        """The scores in the order of their seeds."""
        return [self.scores[seed] for seed in sorted(self.scores)]

    @property
    def interval(self) -> stats.Interval | None:
        """95 % interval of the mean over seeds; None below two of them."""
        few = len(self.scores) < 2
        return None if few else stats.confidence_interval(self.values, resolution=self.resolution)

    def remember(self, note: Note, run: str) -> None:
        """Add a run to a note."""
        self.notes.setdefault(note, []).append(run)


def gather(
    records: Iterable[Record | Unreadable], *, stale: Stale, include_stale: bool = False
) -> tuple[list[Cell], list[str]]:
    """All cells in the order of their rows, and what there is to say about records that are in none.

    Args:
        records: the store. stale: what differs between a record's code and versions and the present ones.
        include_stale: average stale runs together with fresh ones (the cell stays marked).
    """
    usable, remarks = _usable(records)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in usable:
        groups[identity.group(record.identity)].append(record)
    told = labels({key: runs[0].identity for key, runs in groups.items()})
    found = []
    for key, runs in groups.items():
        names = {part: str(runs[0].identity[part]["name"]) for part in ("model", "budget", "method", "task")}
        row = Row(names["model"], names["budget"], names["method"], told[key])
        found.append(_cell(Cell(row, names["task"]), runs, stale, include_stale))
    return sorted(found, key=lambda cell: (cell.row, cell.task)), remarks


def problem(record: Record) -> str | None:
    """Why a readable record cannot stand in a table, or None."""
    try:
        for part in ("model", "budget", "method", "task"):
            record.identity[part]["name"]
        seed = record.identity["seed"]
        main = record.science["main"] if record.state == DONE else {"score": 0.0, "metric": "", "split": ""}
        score, labels = main["score"], (main["metric"], main["split"])
    except (KeyError, TypeError) as error:
        return f"its identity or score lacks {error}"
    if isinstance(seed, bool) or not isinstance(seed, int):
        return f"its seed is {seed!r}, not an integer"
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return f"its score is {score!r}, not a finite number"
    task = record.identity["task"]
    reported = (task.get("score", labels[0]), task.get("reports", labels[1]))
    same = record.state != DONE or labels == reported
    return None if same else f"it holds {labels[0]} on {labels[1]}, its task reports {' on '.join(reported)}"


def _usable(records: Iterable[Record | Unreadable]) -> tuple[list[Record], list[str]]:
    """Records that can be shown, once each, and a remark for every other one."""
    same: dict[tuple[str, int], list[Record]] = defaultdict(list)
    remarks = []
    for record in records:
        if isinstance(record, Unreadable):
            remarks.append(f"unreadable: {record.reason}")
        elif reason := problem(record):
            remarks.append(f"unusable: {record.id}: {reason}; remove that folder and run again")
        else:
            same[identity.group(record.identity), record.identity["seed"]].append(record)
    kept = []
    for twins in same.values():
        if len(twins) > 1:
            twins, remark = _one_of(twins)
            remarks.append(remark)
        kept += twins
    return kept, remarks


def _one_of(twins: list[Record]) -> tuple[list[Record], str]:
    """Of records with one identity: a DONE one if all DONE ones agree, none if they contradict; and a remark."""
    what = f"duplicate: {twins[0].id} stands {len(twins)} times in the store"
    scores = sorted({record.science["main"]["score"] for record in twins if record.state == DONE})
    if len(scores) > 1:
        listed = ", ".join(f"{score:g}" for score in scores)
        return [], f"{what} with different scores ({listed}): none of them counts; remove all but the right one"
    return sorted(twins, key=lambda record: record.state != DONE)[:1], f"{what}, counted once; remove the copies"


def _cell(cell: Cell, runs: list[Record], stale: Stale, include_stale: bool) -> Cell:
    """Fill the cell of one configuration from its runs."""
    kept = runs[0].identity
    limits = [(kept.get("data") or {}).get(key) for key in ("max_train_rows", "max_eval_rows")]
    cell.like = identity.digest([kept["task"], kept.get("content", {}).get("data"), limits])
    done = [record for record in runs if record.state == DONE]
    for record in runs:
        if record.state != DONE:
            cell.absent[record.state] += 1
            cell.remember(Note(_why(record)), record.id)
    old = {record.id: differs for record in done if (differs := stale(record))}
    codes = {id(record.code): record.code for record in done}  # records of an index share equal ones
    one_code = len({identity.digest(code) for code in codes.values()}) == 1
    shown = include_stale or (len(old) == len(done) and one_code)
    for record in done:
        if record.id in old:
            how = "shown as †" if shown else "left out of the mean (--stale includes it)"
            cell.remember(Note(f"stale, {how}: made by other {_few(old[record.id])}"), record.id)
        if record.id in old and not shown:
            cell.absent["stale"] += 1
        else:
            _count(cell, record)
            cell.stale |= record.id in old
    return cell


def _few(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _why(record: Record) -> str:
    """State and reason of a run that is not DONE, on one line."""
    lines = record.error.strip().splitlines() or ["" if record.state == RUNNING else "no reason recorded"]
    reason = lines[0] if len(lines[0]) <= 200 else lines[0][:199] + "…"
    return f"{record.state}: {reason}" if reason else record.state


def _count(cell: Cell, record: Record) -> None:
    """Let a DONE run count in its cell."""
    main = record.science["main"]
    cell.metric, cell.split = main["metric"], main["split"]
    cell.scores[record.identity["seed"]] = float(main["score"])
    cell.resolution = max(cell.resolution, resolution(record))
    params = record.science.get("params") or {}
    for name in PARAMS:
        if isinstance(count := params.get(name), int) and count not in cell.params.setdefault(name, []):
            cell.params[name].append(count)
    for remark in record.remarks:
        cell.remember(Note(remark, lists=False), record.id)


def resolution(record: Record) -> float:
    """Points that one example is worth: 100 / rows for a classification score, 0 for a score without steps.

    Exact for accuracy; F1 and Matthews move by about as much when one example flips.
    """
    stored = (record.science.get("predictions") or {}).get(record.science["main"]["split"]) or {}
    rows = stored.get("rows") or 0
    return 100 / rows if rows and record.identity["task"].get("kind") == "classification" else 0.0


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted key -> JSON text; a SHA-256 is cut to 8 digits."""
    if not isinstance(value, dict):
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        return {prefix: text[:8] if prefix.startswith("content.") and len(text) == 64 else text}
    parts = (_flat(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items())
    return {key: text for part in parts for key, text in part.items()}


def labels(groups: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Group -> what tells it from other configurations of its method, backbone and budget; "" where nothing does."""
    rows: dict[tuple[str, ...], dict[str, dict[str, str]]] = defaultdict(dict)
    for group, kept in groups.items():
        base = tuple(str(kept[part]["name"]) for part in ("model", "budget", "method"))
        rows[base][group] = _flat({key: value for key, value in kept.items() if key != "seed"})
    return {group: label for flats in rows.values() for group, label in _labels_of_row(flats).items()}


def _labels_of_row(flats: dict[str, dict[str, str]]) -> dict[str, str]:
    """Labels within one method, backbone and budget: the keys that vary within any task, with each group's values."""
    tasks: dict[str, list[dict[str, str]]] = defaultdict(list)
    for flat in flats.values():
        tasks[flat["task.name"]].append(flat)
    varying = {task: _varying(members) for task, members in tasks.items()}
    everywhere = {key for keys in varying.values() for key in keys if not key.startswith(OF_ONE_TASK)}
    return {
        group: ", ".join(f"{key}={flat.get(key, 'unset')}" for key in sorted(everywhere | varying[flat["task.name"]]))
        for group, flat in flats.items()
    }


def _varying(members: list[dict[str, str]]) -> set[str]:
    keys = {key for flat in members for key in flat}
    return {key for key in keys if len({flat.get(key) for flat in members}) > 1}
