"""A table's columns become a split: texts checked, labels as indices, prompts filled in, answers put in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from harness.errors import ConfigError, DataError, unknown
from harness.files import Table
from harness.schema import TaskConfig
from harness.shapes import SHAPES, Found, Row
from harness.splits import Split

EXTRA = ("group", "truth", "shorter", "id")  # columns that only some shapes have


def flatten(spec: TaskConfig, source: str, mark: str, found: Iterable[tuple[int, dict[str, Any]]]) -> Table:
    """Whole objects, each with its line, as a table of the task's shape. Raises DataError naming the line."""
    rows: list[Row] = []
    numbers: list[int] = []
    for at, (number, content) in enumerate(found):
        new = list(SHAPES[spec.shape](Found(f"{source}{mark}{number}", content), at, spec.prompt is not None))
        rows += new
        numbers += [number] * len(new)
    return tabled(spec, rows, source, mark, numbers)


def tabled(spec: TaskConfig, rows: list[Row], source: str, mark: str, numbers: list[int]) -> Table:
    """Rows of a shape by columns, with the prompt's text in place of the pair."""
    if spec.prompt is not None:
        rows = [{**row, "text": _filled(spec.prompt, row), "text_pair": None} for row in rows]
    has = [name for name in ("text_pair", *EXTRA) if rows and rows[0].get(name) is not None]
    columns = {name: [row.get(name) for row in rows] for name in ("text", "target", *has)}
    return Table(source, mark, numbers, {name: name for name in columns} | {"target": "label"}, columns)


def _filled(prompt: str, fields: dict[str, Any]) -> str:
    try:
        return prompt.format(**fields)
    except (KeyError, IndexError) as error:
        raise ConfigError(
            f"task.prompt: {unknown('field', str(error.args[0]), [str(key) for key in fields])}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"task.prompt={prompt!r} is malformed: {error}") from None


def split(spec: TaskConfig, table: Table, *, hidden: bool = False) -> tuple[Split, int]:
    """The checked columns of one split, and how many broken rows were left out.

    `hidden`: there are no targets; placeholders stand in their place, and the ids are the official ones. No row is left
    out there: a dash stands for an empty text.
    """
    asked = [role for role in ("text", "text_pair", "target") if role in table.columns]
    texts = [role for role in asked if role != "target" or (spec.nature == "text" and not hidden)]
    if hidden:  # the server wants an answer to every row
        table.columns.update({role: [_or_dash(text) for text in table.columns[role]] for role in texts})
    broken = {at: role for role in texts for at, text in enumerate(table.columns[role]) if not _is_text(text)}
    if broken and (hidden or not spec.skip_broken):
        at, role = min(broken.items())
        found = repr(table.columns[role][at])[:60]
        raise DataError(f"{table.where(at)}: {table.names[role]} is {found}; a text with something to read is expected")
    kept = [at for at in range(len(table)) if at not in broken]
    if not kept:
        raise DataError(f"{table.source}: the split is empty; at least one row is needed")
    columns = {role: [column[at] for at in kept] for role, column in table.columns.items()}
    _word(spec, columns)
    ids, truth = columns.get("id", range(len(kept))) if hidden else range(len(kept)), columns.get("truth")
    if hidden:
        target: list[Any] = [_placeholder(spec)] * len(kept)
    else:
        target = _targets(spec, table, kept, columns["target"])
        if spec.prompt is not None and spec.nature != "text":
            truth, target = target, [_answer(spec, value) for value in target]
    more = {"groups": columns.get("group"), "truth": truth, "shorter": columns.get("shorter")}
    found_split = Split([str(one) for one in ids], columns["text"], columns.get("text_pair"), target, **more)
    return found_split, table.skipped + len(broken)


def _word(spec: TaskConfig, columns: dict[str, list[Any]]) -> None:
    """The prompt in place of a pair of plain columns; the rows of a shape have it already."""
    if spec.prompt is None or spec.shape != "plain":
        return
    pairs = columns.pop("text_pair", None) or [None] * len(columns["text"])
    fields = ({"text": text, "text_pair": pair} for text, pair in zip(columns["text"], pairs, strict=True))
    columns["text"] = [_filled(spec.prompt, row) for row in fields]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _or_dash(text: Any) -> Any:
    return "-" if isinstance(text, str) and not text.strip() else text


def _placeholder(spec: TaskConfig) -> Any:
    return "-" if spec.kind == "generation" else 0.0 if spec.nature == "score" else 0


def _answer(spec: TaskConfig, value: Any) -> str:
    """A class or a score in words."""
    if spec.nature == "class":
        return (spec.answers or spec.labels)[value]
    step = spec.answer_step or 0.1
    # 0.3 / 0.2 is 1.4999999999999998 and means 1.5, which is rounded to the even neighbour.
    return f"{round(round(value / step, 6)) * step:.1f}"


def _targets(spec: TaskConfig, table: Table, kept: list[int], found: list[Any]) -> list[Any]:
    """Class indices, scores or target texts; a DataError names the first row that has none of what is allowed."""
    if spec.nature == "text":
        return found
    if spec.nature == "score":
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
