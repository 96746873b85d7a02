"""A task: its splits as plain columns, from files in the official layout or from the hub, with one fingerprint.

A directory wins over the hub. Both ways give the same rows, hence the same fingerprint: texts are taken as they are
(never stripped), labels become indices in the hub's order, and scores are rounded to the six digits that survive the
hub's float32. Each row's id is its number in its split, from 0, so that equal fingerprints mean equal ids.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import TaskConfig
from harness.errors import ConfigError, DataError, nearest, unknown
from harness.files import Table, read, roles
from harness.paths import embedded


@dataclass(frozen=True)
class Split:
    """One split, by columns. `target` holds class indices, scores or target texts, by the task's kind."""

    ids: list[str]
    text: list[str]
    text_pair: list[str] | None
    target: list[int] | list[float] | list[str]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Task:
    """What a run needs to know of a task. `fingerprint` is a SHA-256 of its content, `source` says where it was."""

    name: str
    kind: str
    labels: tuple[str, ...]
    metric: str
    score: str
    selects: str
    reports: str
    splits: dict[str, Split]
    fingerprint: str
    source: str
    remarks: list[str]


def load(spec: TaskConfig, root: str | None) -> Task:
    """Read every split of a task.

    Args:
        spec: the task's configuration.
        root: a directory with the official layout (`data.root`). Without it the task's own root, else the hub.

    Raises:
        DataError: missing or malformed data; the message names file and line, what is allowed, and the remedy.
        ConfigError: the task selects or reports on a split that it does not have.
    """
    root = root or spec.root
    for role in ("selects", "reports"):
        if (split := getattr(spec, role)) not in (names := spec.files if root else spec.hub.splits):
            raise ConfigError(f"task.{role}={split}: {unknown('split', split, names)} (task {spec.name})")
    if root:
        source, tables = f"directory {root}/{spec.folder}", _from_directory(spec, root)
    else:
        from harness.dataset import fetch

        source, tables = fetch(spec)
    splits, remarks = {}, []
    for name, table in tables.items():
        splits[name], skipped = _split(spec, table)
        remarks += _remarks(spec, name, len(splits[name]), skipped)
    return Task(
        name=spec.name,
        kind=spec.kind,
        labels=tuple(spec.labels),
        metric=spec.metric,
        score=spec.score,
        selects=spec.selects,
        reports=spec.reports,
        splits=splits,
        fingerprint=fingerprint(spec.labels, splits),
        source=source,
        remarks=remarks,
    )


def fingerprint(labels: list[str] | tuple[str, ...], splits: dict[str, Split]) -> str:
    """SHA-256 (hex) over the label order and the rows of every split, in order; ids are left out."""
    digest = hashlib.sha256()
    for part in (list(labels), *([name, s.text, s.text_pair, s.target] for name, s in sorted(splits.items()))):
        # JSON, so that no two different lists of rows can read the same.
        digest.update(json.dumps(part).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _from_directory(spec: TaskConfig, root: str) -> dict[str, Table]:
    """Each split's file, read. A `.jsonl` of the same name stands in for a `.tsv` that is absent."""
    folder = _folder(spec, embedded(root))
    wanted = roles(spec.text, spec.text_pair, spec.target)
    tables = {}
    for split, name in spec.files.items():
        path = folder / name
        if not path.is_file() and path.with_suffix(".jsonl").is_file():
            path = path.with_suffix(".jsonl")
        if not path.is_file():
            raise DataError(f"{spec.name}: no file {path}, the {split} split. {_what_is_in(folder, name)}")
        tables[split] = read(path, wanted, spec.columns, skip_broken=spec.skip_broken)
    return tables


def _folder(spec: TaskConfig, root: Path) -> Path:
    """The task's folder: under the root itself, or under the suite's (`GLUE/RTE`); a DataError says what is there."""
    suite = spec.name.partition("/")[0].lower()
    suites = [path for path in root.iterdir() if path.name.lower() == suite] if root.is_dir() else []
    for folder in (parent / spec.folder for parent in [root, *sorted(suites)]):
        if folder.is_dir():
            return folder
    files = " and ".join(f"{spec.folder}/{name}" for name in spec.files.values())
    needs = f"{spec.name} is looked for under data.root={root}, as {files}"
    if not root.is_dir():
        raise DataError(f"no directory {root}. {needs}")
    raise DataError(f"no directory {root / spec.folder}. {needs}. {_what_is_in(root, spec.folder)}")


def _what_is_in(folder: Path, wanted: str) -> str:
    """What a directory holds (the first ten names), and the name nearest to the one that was looked for."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return f"{folder} is empty"
    by_lower = {name.lower(): name for name in names}
    close = by_lower.get(nearest(wanted.lower(), by_lower) or "")
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"It holds {', '.join(names[:10])}{more}." + (f" The nearest name is {close}." if close else "")


def _split(spec: TaskConfig, table: Table) -> tuple[Split, int]:
    """The checked columns of one split, and how many broken rows were left out."""
    texts = [role for role in table.columns if role != "target" or spec.kind == "generation"]
    broken = {at: role for role in texts for at, text in enumerate(table.columns[role]) if not _is_text(text)}
    if broken and not spec.skip_broken:
        at, role = min(broken.items())
        found = repr(table.columns[role][at])[:60]
        raise DataError(f"{table.where(at)}: {table.names[role]} is {found}; a text with something to read is expected")
    kept = [at for at in range(len(table)) if at not in broken]
    if not kept:
        raise DataError(f"{table.source}: the split is empty; at least one row is needed")
    columns = {role: [column[at] for at in kept] for role, column in table.columns.items()}
    target = _targets(spec, table, kept, columns["target"])
    split = Split([str(at) for at in range(len(kept))], columns["text"], columns.get("text_pair"), target)
    return split, table.skipped + len(broken)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _targets(spec: TaskConfig, table: Table, kept: list[int], found: list[Any]) -> list[Any]:
    """Class indices, scores or target texts; a DataError names the first row that has none of what is allowed."""
    if spec.kind == "generation":
        return found
    if spec.kind == "regression":
        targets = [_score(value, spec.target_range) for value in found]
        bounds = "" if spec.target_range is None else " from {:g} to {:g}".format(*spec.target_range)
        allowed = f"a finite number{bounds}"
    else:
        index = {str(at): at for at in range(len(spec.labels))} | {name: at for at, name in enumerate(spec.labels)}
        targets = [index.get(str(value)) for value in found]
        allowed = "one of " + ", ".join(f"{name} (or {at})" for at, name in enumerate(spec.labels))
    if None in targets:
        at = targets.index(None)
        label = f"{table.names['target']} is {repr(found[at])[:60]}"
        raise DataError(f"{table.where(kept[at])}: {label}; {allowed} is expected")
    return targets


def _score(value: Any, bounds: list[float] | None) -> float | None:
    """A score as the number that its six leading digits say, or None where it is no number or out of bounds."""
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    low, high = bounds or (-math.inf, math.inf)
    if isinstance(value, bool) or not math.isfinite(score) or not low <= score <= high:
        return None
    # The hub keeps scores as float32, files as decimals: 3.8 is 3.7999999523 there. Six digits survive both.
    return float(format(score, ".6g"))


def _remarks(spec: TaskConfig, split: str, rows: int, skipped: int) -> list[str]:
    """What a reader of the record must know of this split: rows left out, another count than the official one."""
    remarks = []
    if skipped:
        remarks.append(f"{split}: {skipped} rows with missing fields or an empty text were left out")
    official = spec.rows.get(split, rows)
    if rows != official:
        kind = "subset" if rows < official else "superset"
        remarks.append(f"{kind}: {split} has {rows} rows, the official split {official}")
    return remarks


def cut(task: Task, max_train_rows: int | None, max_eval_rows: int | None) -> Task:
    """The task with the first rows of each split alone, and a remark on every split that lost some."""
    splits, remarks = {}, list(task.remarks)
    for name, split in task.splits.items():
        limit = max_train_rows if name == "train" else max_eval_rows
        if limit is None or limit >= len(split):
            splits[name] = split
            continue
        columns = {key: column and column[:limit] for key, column in vars(split).items()}
        splits[name] = Split(**columns)
        remarks.append(f"subset: {name} cut to its first {limit} of {len(split)} rows")
    return replace(task, splits=splits, remarks=remarks)
