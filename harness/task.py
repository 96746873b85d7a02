"""A task: its splits as plain columns, from files in the official layout or from the hub, with one fingerprint.

A directory wins over the hub. Both ways give the same rows, hence the same fingerprint: texts are taken as they are
(never stripped), labels become indices in the hub's order, and scores are rounded to the six digits that survive the
hub's float32. Each row's id is its number in its official split, from 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import columns, instructions
from harness.answers import Answers
from harness.errors import ConfigError, DataError, unknown
from harness.files import Table, first_there, folder_of, objects, one_column, read, roles, what_is_in
from harness.paths import embedded
from harness.schema import TaskConfig
from harness.splits import Split, arrange, fingerprint, first, repeated


@dataclass(frozen=True)
class Task:
    """What a run needs to know of a task. `fingerprint` is a SHA-256 of its content, `source` says where it was.

    `answers` turns generated text back into labels (None: the text itself is what counts). Several tasks in one run
    are `parts`, by their names; they have the rows then, and `splits` is empty.
    """

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
    also_reports: tuple[str, ...] = ()
    answers: Answers | None = None
    parts: dict[str, Task] = field(default_factory=dict)
    temperature: float = 1.0

    def has(self, split: str) -> bool:
        """Whether there are such rows; of several tasks, in any of them."""
        return split in self.splits or any(part.has(split) for part in self.parts.values())


def load(spec: TaskConfig, root: str | None) -> Task:
    """Read every split of a task.

    Args:
        spec: the task's configuration.
        root: a directory with the official layout (`data.root`). Without it the task's own root, else the hub.

    Raises:
        DataError: missing or malformed data; the message names file and line, what is allowed, and the remedy.
        ConfigError: the task selects or reports on a split that it does not have.
    """
    if spec.parts:
        return _together(spec, {name: load(part, root) for name, part in spec.parts.items()})
    root = root or spec.root
    if spec.splits == "official":
        _check_roles(spec, spec.files if root else spec.hub.splits)
    if root:
        source, tables = f"directory {root}/{spec.folder}", _from_directory(spec, root)
    else:
        from harness.dataset import fetch

        source, tables = fetch(spec)
    splits, remarks = {}, []
    for name, table in tables.items():
        splits[name], skipped = columns.split(spec, table)
        remarks += _remarks(spec, name, splits[name], skipped)
    splits = arrange(spec.splits, spec.name, splits)
    _check_roles(spec, splits)
    return replace(
        empty(spec),
        splits=splits,
        fingerprint=fingerprint(spec.labels, splits),
        source=source,
        remarks=remarks + _repeats(splits),
        also_reports=tuple(name for name in spec.also_reports if name in splits),
    )


def _together(spec: TaskConfig, parts: dict[str, Task]) -> Task:
    """Several tasks as one; its rows are theirs."""
    content = json.dumps({name: part.fingerprint for name, part in parts.items()})
    return replace(
        empty(spec),
        parts=parts,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        source="; ".join(part.source for part in parts.values()),
        remarks=_remarks_of(parts),
        also_reports=tuple(name for name in spec.also_reports if any(part.has(name) for part in parts.values())),
    )


def _remarks_of(parts: dict[str, Task]) -> list[str]:
    """`subset: glue/qqp: train has ...`: the kind of a remark stays in front."""
    found = []
    for name, part in parts.items():
        for remark in part.remarks:
            kind, mark, rest = remark.partition(": ")
            found.append(f"{kind}: {name}: {rest}" if mark and kind in ("subset", "superset") else f"{name}: {remark}")
    return found


def empty(spec: TaskConfig) -> Task:
    """A task without rows: what a backbone needs to know of it."""
    return Task(
        name=spec.name, kind=spec.kind, labels=tuple(spec.labels), metric=spec.metric, score=spec.score,
        selects=spec.selects, reports=spec.reports, splits={}, fingerprint="", source="", remarks=[],
        answers=Answers(tuple(spec.answers or spec.labels)) if spec.prompt and spec.nature != "text" else None,
        parts={name: empty(part) for name, part in spec.parts.items()}, temperature=spec.temperature,
    )  # fmt: skip


def references(task: Task, split: str) -> list[Any] | None:
    """What the metric compares a split's predictions with, where it is not the class or score that was trained on."""
    rows = task.splits[split]
    if rows.truth is not None:
        return rows.truth
    return list(rows.target) if task.kind == "generation" else None


def hidden(spec: TaskConfig, root: str) -> dict[str, Split]:
    """The splits without labels that `root` has files of; ids are the official ones, targets placeholders.

    Raises:
        DataError: none of the files is there, or one is malformed.
    """
    folder = folder_of(spec, embedded(root))
    found = {}
    for name, file in spec.hidden.items():
        path = first_there(folder, file)
        if path is None:
            continue
        if spec.shape == "plain":
            named = spec.hidden_columns.get(name)
            text, text_pair = (named[0], named[1]) if named else (spec.text, spec.text_pair)
            index = "idx" if path.suffix == ".jsonl" else one_column(path, "index", "id")
            table = read(path, roles(text, text_pair, None) | {"id": index})
        else:
            table = columns.flatten(spec, str(path), ":", objects(path))
        found[name], _ = columns.split(spec, table, hidden=True)
    if not found:
        files = " or ".join(spec.hidden.values()) or "(this task has none)"
        raise DataError(f"{spec.name}: {folder} has no rows to predict: {files} is looked for")
    return found


def _check_roles(spec: TaskConfig, splits: Iterable[str]) -> None:
    for role in ("selects", "reports"):
        if (split := getattr(spec, role)) not in splits:
            raise ConfigError(f"task.{role}={split}: {unknown('split', split, splits)} (task {spec.name})")


def _from_directory(spec: TaskConfig, root: str) -> dict[str, Table]:
    """Each split's file, read. A `.jsonl` of the same name stands in for a `.tsv` that is absent."""
    folder = folder_of(spec, embedded(root))
    tables = {}
    for split, names in spec.files.items():
        path = first_there(folder, names)
        if path is None and split in spec.also_reports:
            continue
        if path is None:
            raise DataError(f"{spec.name}: no file {folder / names}, the {split} split. {what_is_in(folder, names)}")
        tables[split] = _table(spec, path)
    return tables


def _table(spec: TaskConfig, path: Path) -> Table:
    if spec.shape == "plain":
        return read(path, roles(spec.text, spec.text_pair, spec.target), spec.columns, skip_broken=spec.skip_broken)
    if spec.shape == "superni":
        found = [(row, at) for file in instructions.files(path) for at, row in enumerate(instructions.rows(file))]
        return columns.tabled(spec, [row for row, _ in found], str(path), ", instance ", [at for _, at in found])
    return columns.flatten(spec, str(path), ":", objects(path))


def _remarks(spec: TaskConfig, split: str, found: Split, skipped: int) -> list[str]:
    """What a reader of the record must know of this split: rows left out, another count than the official one."""
    remarks = []
    if skipped:
        remarks.append(f"{split}: {skipped} rows with missing fields or an empty text were left out")
    # Of candidates, the official count is that of the queries they belong to.
    count = len(set(found.groups)) if found.groups and spec.metric in ("choice", "record") else len(found)
    official = spec.rows.get(split, count)
    if count != official:
        kind = "subset" if count < official else "superset"
        remarks.append(f"{kind}: {split} has {count} rows, the official split {official}")
    return remarks


def _repeats(splits: dict[str, Split]) -> list[str]:
    """Rows of the other splits whose texts were trained on; some official sets have them."""
    counts = {name: repeated(splits["train"], split) for name, split in splits.items() if name != "train"}
    return [f"{count} of {len(splits[name])} {name} rows have the texts of a training row"
            for name, count in counts.items() if count]  # fmt: skip


def cut(task: Task, max_train_rows: int | None, max_eval_rows: int | None) -> Task:
    """The task with the first rows of each split alone, and a remark on every split that lost some."""
    if task.parts:
        parts = {name: cut(part, max_train_rows, max_eval_rows) for name, part in task.parts.items()}
        return replace(task, parts=parts, remarks=_remarks_of(parts))
    splits, remarks = {}, list(task.remarks)
    for name, split in task.splits.items():
        limit = max_train_rows if name == "train" else max_eval_rows
        if limit is None or limit >= len(split):
            splits[name] = split
            continue
        splits[name] = first(split, limit)
        remarks.append(f"subset: {name} cut to its first {len(splits[name])} of {len(split)} rows")
    counted = _repeats(task.splits) if splits != task.splits else []
    kept = [remark for remark in remarks if remark not in counted]  # of all rows: counted again on those that are left
    return replace(task, splits=splits, remarks=kept + (_repeats(splits) if counted else []))
