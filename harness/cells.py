"""Records -> the cells of a table. Runs share one only if they differ in nothing but the seed; none is dropped unsaid.

A row is a method on a backbone within a budget. Where one task holds several configurations of it, each gets a row of
its own, labelled with the keys that differ (`train.learning_rate=0.001`). Runs that are not DONE, stale, on a subset
of the data, doubled or unreadable leave a note.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness import identity, stats
from harness.bundle import Bundle, Held, problem, single
from harness.labels import labels
from harness.record import DONE, RUNNING, Record, Unreadable

PARAMS = ("adapter", "active", "head", "total")
LISTED = 5  # modules and packages named of those that make a run stale
Stale = Callable[[Record], list[str]]


class Row(NamedTuple):
    """What a line of the table is about."""

    model: str
    budget: str
    method: str
    settings: str

    @property
    def title(self) -> str:
        """`lora (random weights)`."""
        return f"{self.method} ({self.settings})" if self.settings else self.method


class Note(NamedTuple):
    """Something a reader must know about a cell. `lists` says whether the runs it is about are named one by one."""

    text: str
    lists: bool = True


@dataclass
class Cell:
    """One configuration on one task.

    Attributes:
        row, task, metric, split: where it stands, and what the score is ("" while no run is DONE).
        scores: seed -> main score in percent, of the runs that count. runs: seed -> id. resolution: the step between
            possible scores.
        stale: whether any of them was made by other code or versions than the present ones. made: the distinct codes.
        absent: state -> number of runs that do not count. params: of PARAMS, the distinct values of the runs.
        notes: note -> ids of the runs. like: equal where two cells' scores may be compared.
    """

    row: Row
    task: str
    metric: str = ""
    split: str = ""
    scores: dict[int, float] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)
    resolution: float = 0.0
    stale: bool = False
    made: list[dict[str, Any]] = field(default_factory=list)
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

    def remember(self, note: Note, runs: list[str]) -> None:
        """Add runs to a note."""
        self.notes.setdefault(note, []).extend(runs)


def gather(held: Iterable[Held], *, stale: Stale, include_stale: bool = False) -> tuple[list[Cell], list[str]]:
    """All cells in the order of their rows, and what there is to say about records that are in none.

    Args:
        held: the store. stale: what differs between a record's code and versions and the present ones.
        include_stale: average stale runs together with fresh ones (the cell stays marked).
    """
    usable, remarks = _usable(held)
    told = labels({key: bundles[0].one.identity for key, bundles in usable.items()})
    likes: dict[Any, str] = {}
    found = []
    for key, bundles in usable.items():
        kept = bundles[0].one.identity
        names = {part: str(kept[part]["name"]) for part in ("model", "budget", "method", "task")}
        row = Row(names["model"], names["budget"], names["method"], told[key])
        found.append(_cell(Cell(row, names["task"], like=_like(kept, likes)), bundles, stale, include_stale))
    return sorted(found, key=lambda cell: (cell.row, cell.task)), remarks


def _like(kept: dict[str, Any], known: dict[Any, str]) -> str:
    """Equal for identities whose scores may be compared. known: what was computed before, by the object of the task."""
    limits = [(kept.get("data") or {}).get(key) for key in ("max_train_rows", "max_eval_rows")]
    data = kept.get("content", {}).get("data")
    key = id(kept["task"]), str(data), str(limits)
    if key not in known:
        known[key] = identity.digest([kept["task"], data, limits])
    return known[key]


def _usable(held: Iterable[Held]) -> tuple[dict[str, list[Bundle]], list[str]]:
    """Group -> its runs that can be shown, once each; and a remark for every other record."""
    groups: dict[str, list[Bundle]] = defaultdict(list)
    remarks = []
    for one in held:
        if isinstance(one, Unreadable):
            remarks.append(f"unreadable: {one.reason}")
            continue
        bundle = one if isinstance(one, Bundle) else single(one)
        whole = bundle.sound() and problem(bundle.one) is None
        for part in [bundle] if whole else map(single, bundle.records()):
            if not whole and (reason := problem(part.one)):
                remarks.append(f"unusable: {part.one.id}: {reason}; remove that folder and run again")
            else:
                groups[identity.group(part.one.identity)].append(part)
    for key, bundles in groups.items():
        seeds = [seed for bundle in bundles for seed in bundle.seeds]
        if len(set(seeds)) < len(seeds):
            groups[key], doubled = _once(bundles)
            remarks += doubled
    return {key: bundles for key, bundles in groups.items() if bundles}, remarks


def _once(bundles: list[Bundle]) -> tuple[list[Bundle], list[str]]:
    """Runs of one configuration, of every seed one; and a remark for each seed that has several."""
    same: dict[int, list[Record]] = defaultdict(list)
    for record in (record for bundle in bundles for record in bundle.records()):
        same[record.identity["seed"]].append(record)
    kept: list[Bundle] = []
    remarks = []
    for twins in same.values():
        if len(twins) > 1:
            twins, remark = _one_of(twins)
            remarks.append(remark)
        kept += map(single, twins)
    return kept, remarks


def _one_of(twins: list[Record]) -> tuple[list[Record], str]:
    """Of records with one identity: a DONE one if all DONE ones agree, none if they contradict; and a remark."""
    what = f"duplicate: {twins[0].id} stands {len(twins)} times in the store"
    scores = sorted({record.science["main"]["score"] for record in twins if record.state == DONE})
    if len(scores) > 1:
        listed = ", ".join(f"{score:g}" for score in scores)
        return [], f"{what} with different scores ({listed}): none of them counts; remove all but the right one"
    return sorted(twins, key=lambda record: record.state != DONE)[:1], f"{what}, counted once; remove the copies"


def _cell(cell: Cell, bundles: list[Bundle], stale: Stale, include_stale: bool) -> Cell:
    """Fill the cell of one configuration from its runs."""
    done = []
    for bundle in bundles:
        if bundle.one.state == DONE:
            done.append((bundle, stale(bundle.one)))
        else:
            cell.absent[bundle.one.state] += len(bundle.ids)
            cell.remember(Note(_why(bundle.one)), bundle.ids)
    cell.made = _distinct([bundle.one.code for bundle, _ in done])
    one_code = len(cell.made) == 1
    shown = include_stale or (one_code and all(differs for _, differs in done))
    for bundle, differs in done:
        if differs:
            how = "shown as †" if shown else "left out of the mean (--stale includes it)"
            cell.remember(Note(f"stale, {how}: made by other {_few(differs)}"), bundle.ids)
        elif not one_code and not any(other for _, other in done):
            cell.remember(Note("made by different states of the code or versions"), bundle.ids)
        if differs and not shown:
            cell.absent["stale"] += len(bundle.ids)
        else:
            _count(cell, bundle)
            cell.stale |= bool(differs)
    return cell


def _distinct(codes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each once; those of an index are one object where they are equal."""
    found: list[dict[str, Any]] = []
    for code in {id(code): code for code in codes}.values():
        if code not in found:
            found.append(code)
    return found


def _few(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _why(record: Record) -> str:
    """State and reason of a run that is not DONE, on one line."""
    lines = record.error.strip().splitlines() or ["" if record.state == RUNNING else "no reason recorded"]
    reason = lines[0] if len(lines[0]) <= 200 else lines[0][:199] + "…"
    return f"{record.state}: {reason}" if reason else record.state


def _count(cell: Cell, bundle: Bundle) -> None:
    """Let DONE runs count in their cell."""
    main = bundle.one.science["main"]
    cell.metric, cell.split = main["metric"], main["split"]
    cell.scores.update(zip(bundle.seeds, map(float, bundle.scores), strict=True))
    cell.runs.update(zip(bundle.seeds, bundle.ids, strict=True))
    cell.resolution = max(cell.resolution, resolution(bundle.one))
    params = bundle.one.science.get("params") or {}
    for name in PARAMS:
        if isinstance(count := params.get(name), int) and count not in cell.params.setdefault(name, []):
            cell.params[name].append(count)
    for remark in bundle.one.remarks:
        cell.remember(Note(remark, lists=False), bundle.ids)


def resolution(record: Record) -> float:
    """Points that one example is worth: 100 / rows for a classification score, 0 for a score without steps.

    Exact for accuracy; F1 and Matthews move by about as much when one example flips.
    """
    stored = (record.science.get("predictions") or {}).get(record.science["main"]["split"]) or {}
    rows = stored.get("rows") or 0
    return 100 / rows if rows and record.identity["task"].get("kind") == "classification" else 0.0
