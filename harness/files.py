"""Data files as columns; every complaint names the file and the line.

A `.tsv` is UTF-8 (a byte-order mark is tolerated), one row a line, fields split at tabs, no quoting: a quotation mark
is text. A `.jsonl` has one object a line. Only LF (or CR LF) ends a line; the other characters that Python calls
line breaks do occur inside the texts of real sets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError, nearest
from harness.schema import TaskConfig


@dataclass(frozen=True)
class Table:
    """Columns of equal length, by role (`text`, `text_pair`, `target`); `names` has what the source calls them.

    `numbers` says where each row stands in `source`, `mark` joins the two (`train.tsv` `:` `17`); `skipped` counts the
    rows that were left out.
    """

    source: str
    mark: str
    numbers: Sequence[int]
    names: Mapping[str, str]
    columns: dict[str, list[Any]]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, row: int) -> str:
        """What a message calls this row: `DIR/RTE/train.tsv:17`, or `nyu-mll/glue rte train, row 17`."""
        return f"{self.source}{self.mark}{self.numbers[row]}"


def roles(text: str, text_pair: str | None, target: str | None) -> dict[str, str]:
    """Role -> column name, without a role that a task (or a split with hidden labels) lacks."""
    named = {"text": text, "text_pair": text_pair, "target": target}
    return {role: name for role, name in named.items() if name is not None}


def read(path: Path, wanted: Mapping[str, str], header: Sequence[str] = (), *, skip_broken: bool = False) -> Table:
    """The columns `wanted` of a `.tsv` or `.jsonl` file.

    Args:
        path: the file; what its name ends in decides the format.
        wanted: the columns to keep, role -> name.
        header: the columns of a file without a header; empty for a file with one.
        skip_broken: leave out, and count, rows without all their fields; otherwise the first one raises.

    Raises:
        DataError: the file cannot be read or decoded, lacks a column, or has a row with too few or too many fields.
    """
    lines = _lines(path)
    if path.suffix == ".jsonl":
        return _from_json(path, lines, wanted)
    first = 1 if header else 2
    header = header or (lines[0].split("\t") if lines else [])
    if not header:
        raise DataError(f"{path} is empty; it should begin with a header that has {', '.join(wanted.values())}")
    places = {role: _position(path, header, name) for role, name in wanted.items()}
    rows = [line.split("\t") for line in lines[first - 1 :]]
    kept = [at for at, row in enumerate(rows) if len(row) == len(header)]
    if len(kept) < len(rows) and not skip_broken:
        bad = next(at for at, row in enumerate(rows) if len(row) != len(header))
        raise DataError(
            f"{path}:{first + bad}: {len(rows[bad])} fields found, {len(header)} expected ({', '.join(header)}). "
            "Fields are separated by one tab and cannot contain one; there are no quotation marks around them"
        )
    columns = {role: [rows[at][place] for at in kept] for role, place in places.items()}
    return Table(str(path), ":", [first + at for at in kept], wanted, columns, len(rows) - len(kept))


def _lines(path: Path) -> list[str]:
    """The lines of a file, without their ends; an end after the last line opens no further line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `error.object` lacks the byte-order mark that `utf-8-sig` has taken off, and `error.start` counts from there.
        found, line = error.object[error.start], error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: byte 0x{found:02x} is not UTF-8; save the file as UTF-8") from None
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _position(path: Path, header: Sequence[str], name: str) -> int:
    """Where a column stands in the header."""
    if name in header:
        return header.index(name)
    close = nearest(name, header)
    raise DataError(
        f"{path}:1: no column '{name}' in the header ({', '.join(header)})."
        + (f" The nearest is '{close}'." if close else "")
        + " The task's YAML names the columns: task.text, task.text_pair, task.target"
    )


def one_column(path: Path, *names: str) -> str:
    """The first of some names that a `.tsv` file's header has; the first one of all where it has none.

    Raises DataError where the file cannot be read.
    """
    header = (_lines(path) or [""])[0].split("\t")
    return next((name for name in names if name in header), names[0])


def _from_json(path: Path, lines: list[str], wanted: Mapping[str, str]) -> Table:
    """The columns of a file with one JSON object a line."""
    objects = [_object(f"{path}:{number}", line, wanted) for number, line in enumerate(lines, start=1)]
    columns = {role: [found[name] for found in objects] for role, name in wanted.items()}
    return Table(str(path), ":", range(1, len(lines) + 1), wanted, columns)


def objects(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Every line's number and object, whole, of a file with one JSON object a line.

    Raises:
        DataError: the file cannot be read or decoded, or a line is no JSON object.
    """
    return [(number, _object(f"{path}:{number}", line, {})) for number, line in enumerate(_lines(path), start=1)]


def _object(where: str, line: str, wanted: Mapping[str, str]) -> dict[str, Any]:
    """One line's object, with all the wanted fields, and texts that UTF-8 can write."""
    try:
        found = json.loads(line)
        if isinstance(found, dict):
            # JSON's \ud800 is half of a surrogate pair: a string for Python, but not for any tokenizer.
            texts = found.values() if wanted else [json.dumps(found, ensure_ascii=False)]
            "".join(value for value in texts if isinstance(value, str)).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON object: {error}") from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        fields = f" with {', '.join(wanted.values())}" if wanted else ""
        raise DataError(f"{where}: a JSON object{fields} is expected; found a {kind}")
    for name in wanted.values():
        if name not in found:
            raise DataError(f"{where}: no field '{name}'; the object has {', '.join(found) or 'none'}")
    return found


def first_there(folder: Path, names: str) -> Path | None:
    """Of `a|b` the first; a `.jsonl` for each, too."""
    paths = [folder / name for name in names.split("|")]
    candidates = [one for path in paths for one in (path, path.with_suffix(".jsonl"))]
    return next((path for path in candidates if path.exists()), None)


def folder_of(spec: TaskConfig, root: Path) -> Path:
    """The task's folder: under the root itself, or under the suite's (`GLUE/RTE`); a DataError says what is there."""
    inside = root.iterdir() if spec.suite and root.is_dir() else ()
    suites = [path for path in inside if path.name.lower() == spec.suite.lower()]
    for folder in (parent / spec.folder for parent in [root, *sorted(suites)]):
        if folder.is_dir():
            return folder
    files = " and ".join(f"{spec.folder}/{name}" for name in spec.files.values())
    needs = f"{spec.name} is looked for under data.root={root}, as {files}"
    if not root.is_dir():
        raise DataError(f"no directory {root}. {needs}")
    raise DataError(f"no directory {root / spec.folder}. {needs}. {what_is_in(root, spec.folder)}")


def what_is_in(folder: Path, wanted: str) -> str:
    """What a directory holds (the first ten names), and the name nearest to the one that was looked for."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return f"{folder} is empty"
    by_lower = {name.lower(): name for name in names}
    close = by_lower.get(nearest(wanted.lower(), by_lower) or "")
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"It holds {', '.join(names[:10])}{more}." + (f" The nearest name is {close}." if close else "")
