"""What tables need of a store's records, in one file: 100,000 records in a second instead of a minute.

`.index.json` in the store's folder is derived from the records and never the source of truth: every record.json whose
time or size differs from what the index saw is read again, and a missing, foreign or damaged index is made anew. It is
safe to delete. Where the folder cannot be written nothing is kept.

It has a column for each thing that differs from run to run, and every other thing once. Records come back without
configuration, recipe, losses, curve and trace, and share what they have in common.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import atomic, skim
from harness.bundle import Bundle
from harness.identity import Known, digest
from harness.paths import PACKAGE
from harness.record import DONE, Record, Unreadable
from harness.skim import Kind, Skimmed

if TYPE_CHECKING:
    from harness.cells import Stale

NAME = ".index.json"
VERSION = 2
COLUMNS = ("kind", "seed", "score", "rest")
STAMPS = ("times", "sizes")
MANY = 5_000  # changed records that are worth more processes


class Kinds:
    """Kinds by number, each once, and every JSON text of theirs once."""

    def __init__(self, texts: list[str], kinds: list[list[Any]]) -> None:
        self.texts, self.kinds = texts, kinds
        self._values: dict[int, Any] = {}

    @cached_property
    def _text_numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.texts)}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {json.dumps(kept[:-1]): number for number, kept in enumerate(self.kinds)}

    def put(self, kind: Kind) -> int:
        """The number of a kind."""
        sections = [[key, self._text(text)] for key, text in kind.identity]
        kept = [sections, *(self._text(text) for text in kind[1:6]), *kind[6:]]
        number = self._numbers.setdefault(json.dumps(kept), len(self.kinds))
        if number == len(self.kinds):
            self.kinds.append([*kept, digest(self._identity(sections))])
        return number

    def _text(self, text: str) -> int:
        number = self._text_numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def _value(self, number: int) -> Any:
        if number not in self._values:
            self._values[number] = json.loads(self.texts[number])
        return self._values[number]

    def _identity(self, sections: list[list[Any]]) -> dict[str, Any]:
        return {key: self._value(number) for key, number in sections}

    def record(self, number: int, name: str, seed: Any, score: Any, rest: str | None) -> Record:
        """A record as tables need it. rest: None where its other scores and its cost do not matter."""
        sections, *numbers, state, split, metric, error, own, group = self.kinds[number]
        code, params, predictions, device, remarks = map(self._value, numbers)
        identity = Known(self._identity(sections) | ({} if seed is None else {"seed": seed}), group)
        more = {"scores": None, "cost": {}} if rest is None else json.loads(rest)
        science: dict[str, Any] = {}
        if state == DONE:
            main = {"split": split, "metric": metric, "score": score}
            science = {"main": main, "params": params, "predictions": predictions}
            science |= {"scores": more["scores"]} if more["scores"] is not None else {}
        return Record(
            own or name, state, identity, {}, {}, science, more["cost"], code, {"device": device}, remarks, error
        )


class Index:
    """The columns: a row a record that can be read, in the order of names. stamps: times and sizes of the files."""

    def __init__(self, names: list[str], stamps: list[list[int]], columns: dict[str, list[Any]], kinds: Kinds) -> None:
        self.names, self.stamps, self.columns, self.kinds = names, stamps, columns, kinds

    def record(self, row: int) -> Record:
        """A row's record."""
        kind, seed, score, rest = (self.columns[name][row] for name in COLUMNS)
        return self.kinds.record(kind, self.names[row], seed, score, rest)

    def bundles(self) -> list[Bundle]:
        """All rows, those of one kind together."""
        members: dict[int, list[int]] = {}
        for row, kind in enumerate(self.columns["kind"]):
            try:
                members[kind].append(row)
            except KeyError:
                members[kind] = [row]
        return [self._bundle(kind, rows) for kind, rows in members.items()]

    def _bundle(self, kind: int, rows: list[int]) -> Bundle:
        names, seeds, scores = self.names, self.columns["seed"], self.columns["score"]
        own = self.kinds.kinds[kind][10]
        one = self.kinds.record(kind, names[rows[0]], seeds[rows[0]], scores[rows[0]], None)
        ids = [own or names[row] for row in rows]
        return Bundle(
            one, ids, [seeds[row] for row in rows], [scores[row] for row in rows], lambda at: self.record(rows[at])
        )


def read_all(root: Path) -> list[Record | Unreadable]:
    """Every record of the store as tables need it, in the order of their names, as record.read_all would yield them."""
    found, unreadable = _current(root)
    there = {name: found.record(row) for row, name in enumerate(found.names)}
    return [(there | unreadable)[name] for name in sorted(there.keys() | unreadable)]


def bundles(root: Path) -> list[Bundle | Unreadable]:
    """The same, runs together that differ in seed, score and cost alone."""
    found, unreadable = _current(root)
    return [*found.bundles(), *unreadable.values()]


def remembered(stale: Stale) -> Stale:
    """The same question, asked once of all records that share their code and method."""
    known: dict[tuple[int, str], tuple[list[str], Any]] = {}

    def ask(one: Record) -> list[str]:
        key = id(one.code), str((one.identity.get("method") or {}).get("_target_"))
        if key not in known:
            known[key] = stale(one), one.code  # kept, so that nothing else gets its id
        return known[key][0]

    return ask


def _current(root: Path) -> tuple[Index, dict[str, Unreadable]]:
    """The index, brought up to date and kept; and what cannot be read, by name."""
    with skim.no_collection():
        held, (names, stamps) = _load(root / NAME), _files(root)
        if held.names == names and held.stamps == stamps:
            return held, {}
        made, unread = _renewed(root, held, names, stamps)
        if made.names != held.names or made.stamps != held.stamps:
            _save(root / NAME, made)
        return made, {name: Unreadable(root / name / "record.json", why) for name, why in unread.items()}


def _renewed(root: Path, held: Index, names: list[str], stamps: list[list[int]]) -> tuple[Index, dict[str, str]]:
    """The index of the files that are there, what differs read anew; and why the rest cannot be read, by name."""
    rows = {name: row for row, name in enumerate(held.names)}
    seen = {name: (held.stamps[0][row], held.stamps[1][row]) for name, row in rows.items()}
    read = _skimmed(root, [name for name, *stamp in zip(names, *stamps, strict=True) if seen.get(name) != tuple(stamp)])
    unread = {name: one for name, one in read.items() if isinstance(one, str)}
    kept = [place for place, name in enumerate(names) if name not in unread]
    numbers: dict[int, int] = {}  # equal kinds of one reader are one object
    values: list[tuple[Any, ...]] = []
    for place in kept:
        one = read.get(names[place])
        if isinstance(one, Skimmed):
            if id(one.kind) not in numbers:
                numbers[id(one.kind)] = held.kinds.put(one.kind)
            values.append((numbers[id(one.kind)], *one[1:]))
        else:
            values.append(tuple(held.columns[column][rows[names[place]]] for column in COLUMNS))
    columns = {column: [value[at] for value in values] for at, column in enumerate(COLUMNS)}
    chosen = [[names[place] for place in kept], *([stamp[place] for place in kept] for stamp in stamps)]
    return Index(chosen[0], chosen[1:], columns, held.kinds), dict(sorted(unread.items()))  # type: ignore[arg-type]


def _skimmed(root: Path, names: list[str]) -> dict[str, Skimmed | str]:
    """What tables need of these folders' records, or why they cannot be read. Many are read by several processes."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers, 4, 1 + len(names) // MANY)
    parts = [names[place::workers] for place in range(1, workers)]
    started = [_worker(root, part) for part in parts]
    found = skim.all_of(root, names[::workers])
    for process, part in zip(started, parts, strict=True):
        answer, _ = process.communicate()
        # A worker that died of something leaves its share to us.
        found |= skim.all_of(root, part) if process.returncode else pickle.loads(answer)  # noqa: S301 (our own child)
    return found


def _worker(root: Path, names: list[str]) -> subprocess.Popen[bytes]:
    """A process that skims these folders."""
    words = [sys.executable, "-c", "from harness import skim; skim.main()"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PACKAGE.parent)
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # type: ignore[union-attr]
        pickle.dump((root.absolute(), names), pipe)
    process.stdin = None  # else communicate() would flush what is closed
    return process


def _files(root: Path) -> tuple[list[str], list[list[int]]]:
    """Folders with a record.json, in the order of names, and times and sizes of them."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return [], [[], []]
    found, at, stat = [], f"{root}{os.sep}", os.stat
    stamps: list[list[int]] = [[], []]
    for name in names:
        try:
            one = stat(f"{at}{name}/record.json")
        except FileNotFoundError:
            continue
        found.append(name)
        stamps[0].append(one.st_mtime_ns)
        stamps[1].append(one.st_size)
    return found, stamps


def _load(path: Path) -> Index:
    """The index in a file; an empty one where there is none that this version can read."""
    try:
        held = json.loads(path.read_bytes())
        columns, stamps = {name: held[name] for name in COLUMNS}, [held[name] for name in STAMPS]
        lengths = {len(column) for column in (held["names"], *stamps, *columns.values())}
        if held["version"] == VERSION and len(lengths) == 1 and max(columns["kind"], default=-1) < len(held["kinds"]):
            return Index(held["names"], stamps, columns, Kinds(held["texts"], held["kinds"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return Index([], [[], []], {name: [] for name in COLUMNS}, Kinds([], []))


def _save(path: Path, index: Index) -> None:
    """Keep the index, if the folder can be written."""
    stamps = dict(zip(STAMPS, index.stamps, strict=True))
    kinds = {"texts": index.kinds.texts, "kinds": index.kinds.kinds}
    content = {"version": VERSION, "names": index.names, **stamps, **index.columns, **kinds}
    with contextlib.suppress(OSError):
        atomic.write(path, json.dumps(content, separators=(",", ":")).encode())
