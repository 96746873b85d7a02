"""Reads a published table: one TOML file of results/published. Bad input raises ConfigError naming file and key.

A setting (backbone, split, selection, ...) stands at table level, and a column, a row or a cell overrides it: the
narrowest place wins.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from harness import paper, paths
from harness.errors import ConfigError, unknown
from harness.paper import Average, Column, Count, Line, Published, Setting, Table
from harness.schema import METRICS

SETTINGS = {field.name for field in dataclasses.fields(Setting)}
NEEDED = SETTINGS - {"seeds_reason", "scheme"}
CORRELATIONS = ("matthews", "pearson", "spearman", "pearson_spearman")  # may be negative; other scores lie in 0..100


def names() -> list[str]:
    """The tables there are."""
    return sorted(path.stem for path in paths.PUBLISHED.glob("[!.]*.toml"))


def load(name: str) -> Table:
    """A published table by its name; raises ConfigError for an unknown one or a file that is not one."""
    if name not in (there := names()):
        known = unknown("table", name, there) if there else f"unknown table '{name}': results/published holds none yet."
        raise ConfigError(f"{known}\npython -m harness.table without table= shows what the store holds")
    return read(paths.PUBLISHED / f"{name}.toml")


def read(path: Path) -> Table:
    """The table in a file. Raises ConfigError naming file and key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    return _Reader(path.name).table(path.stem, content)


class _Shared(NamedTuple):
    """What every row needs of the table."""

    columns: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    average: Average | None
    counts: dict[str, str]


class _Reader:
    """Turns parsed TOML into a Table, and knows how its file is called."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self.file}: {key}: {what}")

    def keys(self, where: str, content: Any, allowed: set[str], needed: set[str]) -> None:
        """Refuse anything but a mapping with all of the needed keys and none but the allowed ones."""
        if not isinstance(content, dict):
            raise self.fail(where, f"must hold keys and values, found {content!r}")
        for word in sorted(content.keys() - allowed):
            raise self.fail(f"{where}.{word}".lstrip("."), unknown("key", word, allowed))
        for word in sorted(needed - content.keys()):
            raise self.fail(where or "top level", f"lacks the key '{word}'")

    def table(self, name: str, content: dict[str, Any]) -> Table:
        needed = {"title", "margin_reason", "columns", "rows"}
        optional = {"average", "counts", "remarks", "can_run", "words"}
        self.keys("", content, needed | SETTINGS | optional, needed | NEEDED)
        columns = self.named("columns", content["columns"])
        average = self.average(content["average"], columns) if "average" in content else None
        shared = _Shared(columns, self.settings("", content), average, content.get("counts", {}))
        made = {key: self.column(key, one, content.get("can_run", True)) for key, one in columns.items()}
        rows = {key: self.row(key, one, shared) for key, one in self.named("rows", content["rows"]).items()}
        more = {key: content[key] for key in ("remarks", "can_run", "words") if key in content}
        return Table(
            name, content["title"], content["margin_reason"], made, rows, average, counts=shared.counts, **more
        )

    def named(self, where: str, entries: Any) -> dict[str, dict[str, Any]]:
        """A list of tables, each with a key of its own, as key -> table."""
        found: dict[str, dict[str, Any]] = {}
        for index, entry in enumerate(entries if isinstance(entries, list) else [None]):
            if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
                raise self.fail(f"{where}[{index}]", "lacks the key 'key'")
            if entry["key"] in found:
                raise self.fail(f"{where}.{entry['key']}", "stands twice")
            found[entry["key"]] = entry
        return found

    def make(self, where: str, kind: Any, content: Any) -> Any:
        """A dataclass of plain values from a mapping."""
        known = dataclasses.fields(kind)
        needed = {one.name for one in known if one.default is dataclasses.MISSING}
        self.keys(where, content, {one.name for one in known}, needed)
        return kind(**content)

    def average(self, content: Any, columns: dict[str, Any]) -> Average:
        average = self.make("average", Average, content)
        for key in [key for group in average.of for key in group]:
            if key not in columns:
                raise self.fail("average.of", unknown("column", key, columns))
        return average

    def column(self, key: str, content: dict[str, Any], can_run: bool) -> Column:
        own = {name: value for name, value in content.items() if name not in SETTINGS}
        column: Column = self.make(f"columns.{key}", Column, own)
        metric = str(column.metric).rpartition(".")[2]
        if can_run and metric not in (known := set(chain.from_iterable(METRICS.values()))):
            raise self.fail(f"columns.{key}.metric", unknown("metric", metric, known))
        return column

    def settings(self, where: str, content: dict[str, Any]) -> dict[str, Any]:
        """The settings among the keys, checked."""
        found = {key: content[key] for key in content if key in SETTINGS}
        for key, allowed in (("selection", paper.SELECTIONS), ("statistic", paper.STATISTICS)):
            if key in found and found[key] not in allowed:
                raise self.fail(f"{where}.{key}".lstrip("."), unknown("value", str(found[key]), allowed))
        for key in found.keys() & {"margin", "seeds_claimed", "seeds_inferred"}:
            lowest = 0 if key != "margin" else 1e-9
            if not self.number(f"{where}.{key}".lstrip("."), found[key]) >= lowest:
                raise self.fail(f"{where}.{key}".lstrip("."), f"is too small: {found[key]!r}")
        return found

    def number(self, where: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fail(where, f"must be a finite number, found {value!r}")
        return float(value)

    def row(self, key: str, row: dict[str, Any], shared: _Shared) -> Line:
        where = f"rows.{key}"
        needed = {"key", "title", "method", "cells"} | ({"average"} if shared.average else set())
        self.keys(where, row, needed | SETTINGS | {"budget", "where", "counts", "remark"}, needed)
        settings = self.settings(where, row)
        mean = self.cell(f"{where}.average", row["average"], shared.settings | settings) if shared.average else None
        counts = row.get("counts", {})
        self.keys(f"{where}.counts", counts, set(shared.counts), set(shared.counts))
        return Line(
            key, row["title"], row["method"], row.get("budget", "default"), row.get("where", {}),
            self.cells(where, row["cells"], settings, shared), mean,
            {name: self.count(f"{where}.counts.{name}", one) for name, one in counts.items()}, row.get("remark", ""),
        )  # fmt: skip

    def count(self, where: str, content: Any) -> Count:
        count = self.make(where, Count, content)
        for key in ("formula", "low", "high"):
            try:
                paper.arithmetic(getattr(count, key) or "0")
            except ValueError as error:
                raise self.fail(f"{where}.{key}", str(error)) from error
        return count

    def cells(self, where: str, cells: Any, settings: dict[str, Any], shared: _Shared) -> dict[str, Published]:
        self.keys(f"{where}.cells", cells, set(shared.columns), set())
        found = {}
        for name, column in shared.columns.items():
            if name not in cells:
                raise self.fail(f"{where}.cells", f"lacks the cell '{name}'; say {{absent = \"why\"}} if it has none")
            layers = shared.settings | self.settings(f"columns.{name}", column) | settings
            found[name] = self.cell(f"{where}.cells.{name}", cells[name], layers, column.get("metric", ""))
        return found

    def cell(self, where: str, content: Any, settings: dict[str, Any], metric: str = "average") -> Published:
        """A number, or {value, std, remark, settings}, or {absent = why}."""
        content = content if isinstance(content, dict) else {"value": content}
        self.keys(where, content, {"value", "std", "remark", "absent"} | SETTINGS, set())
        setting = Setting(**settings | self.settings(where, content))
        if "absent" in content:
            return Published(None, setting, None, content["absent"])
        value, std = self.number(where, content.get("value")), content.get("std")
        if not (-100 if metric.rpartition(".")[2] in CORRELATIONS else 0) <= value <= 100:
            raise self.fail(where, f"{value:g} is no {metric} in percent")
        if std is not None and not 0 <= self.number(f"{where}.std", std) <= 50:
            raise self.fail(f"{where}.std", f"{std:g} is no standard deviation of a score in percent")
        return Published(value, setting, std, content.get("remark", ""))
