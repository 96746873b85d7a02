"""What tables need of one record.json, from its bytes, without parsing the rest: most of a file is losses and curve.

Also the worker of a large store: `main` reads folder names on its standard input and writes what it found to its
standard output, so that several processors can read at once.
"""

from __future__ import annotations

import contextlib
import gc
import json
import pickle
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from harness import record
from harness.errors import RecordError
from harness.record import DONE, Record

KEYS = sorted(Record.__dataclass_fields__)
MARKS = {key: b'\n "%s": ' % key.encode() for key in KEYS}
MAPPINGS = ("identity", "config", "science", "cost", "code", "provenance")
INSIDE = re.compile(rb'\n  "(\w+)": ')


class Kind(NamedTuple):
    """What runs share that differ in seed, score and cost alone; all but the last five are JSON.

    identity: (section, JSON) in order, without the seed. id: "" where it is the folder's name. main: the names of
    split and metric, or "" where there is no score.
    """

    identity: tuple[tuple[str, str], ...]
    code: str
    params: str
    predictions: str
    device: str
    remarks: str
    state: str
    split: str
    metric: str
    error: str
    id: str


class Skimmed(NamedTuple):
    """A run: its kind, and what is its own. rest: JSON of its other scores and its cost."""

    kind: Kind
    seed: Any
    score: Any
    rest: str


def read(folder: Path) -> Skimmed:
    """One record from its file. Raises RecordError as record.read does."""
    try:
        with open(folder / "record.json", "rb") as stream:
            return quickly(stream.read(), folder.name)
    except (OSError, ValueError, KeyError, TypeError):
        found = record.read(folder)  # not as we write them: slowly, and with the message of what is wrong
    if found is None:
        raise RecordError(f"{folder / 'record.json'} vanished while it was read")
    return slowly(found, folder.name)


def quickly(data: bytes, name: str) -> Skimmed:
    """A record from the bytes that `atomic.to_json` wrote: sorted keys, one a line, one blank a level.

    JSON has no raw line break inside a string, so a line that starts with one blank and a quote starts a top-level key.
    Raises ValueError or KeyError where the bytes are of another form.
    """
    top = _top(data)
    state = json.loads(top["state"])
    if int(top["schema"]) != record.SCHEMA or state not in record.STATES:
        raise ValueError("not a record of this schema")
    if any(not top[key].startswith(b"{") for key in MAPPINGS):
        raise ValueError("not a mapping")
    done = state == DONE
    names = ("main", "params", "predictions", "scores")
    science = {name: _inside(top["science"], name) if done else None for name in names}
    if done and science["main"] is None:
        raise ValueError("no score")
    main = json.loads(science["main"] or b'{"split": "", "metric": "", "score": null}')
    identity, seed = _identity(top["identity"])
    own, rest = json.loads(top["id"]), b'{"scores": %s, "cost": %s}' % (science["scores"] or b"null", top["cost"])
    json.loads(rest)  # else its reader would meet what is broken
    if not (record.NAME.fullmatch(own) and record.NAME.fullmatch(main["split"] or "test")):
        raise ValueError("a name that leads elsewhere")
    kind = Kind(
        identity, valid(top["code"]), valid(science["params"] or b"{}"), _counted(science["predictions"]),
        valid(_inside(top["provenance"], "device") or b"null"), valid(top["remarks"]), state, main["split"],
        main["metric"], json.loads(top["error"]), "" if own == name else own,
    )  # fmt: skip
    return Skimmed(kind, seed, main["score"], rest.decode())


@lru_cache(maxsize=100_000)
def valid(text: bytes) -> str:
    """The text. Raises ValueError where it is no JSON."""
    json.loads(text)
    return text.decode()


def _top(data: bytes) -> dict[str, bytes]:
    """Key -> its value's bytes."""
    if data.count(b'\n "') != len(KEYS) or not data.endswith(b"\n}\n"):
        raise ValueError("not the fields of a record")
    starts = []
    at = 0
    for key in KEYS:
        at = data.index(MARKS[key], at)
        starts.append(at)
    ends = [*(start - 1 for start in starts[1:]), len(data) - 3]
    return {key: data[start + len(MARKS[key]) : end] for key, start, end in zip(KEYS, starts, ends, strict=True)}


def _inside(section: bytes, key: str) -> bytes | None:
    """The bytes of a value one level down, or None."""
    mark = b'\n  "%s": ' % key.encode()
    start = section.find(mark)
    if start < 0:
        return None
    end = section.find(b'\n  "', start + len(mark))
    return section[start + len(mark) : end - 1 if end >= 0 else len(section) - 3]


def _identity(section: bytes) -> tuple[tuple[tuple[str, str], ...], int]:
    """Sections without the seed, and the seed."""
    marks = list(INSIDE.finditer(section))
    ends = [*(mark.start() - 1 for mark in marks[1:]), len(section) - 3]
    parts = {mark[1]: section[mark.end() : end] for mark, end in zip(marks, ends, strict=True)}
    seed = int(parts.pop(b"seed"))
    return tuple((key.decode(), valid(text)) for key, text in parts.items()), seed


def _counted(predictions: bytes | None) -> str:
    """Of the predictions the numbers of rows alone: digests differ in every run."""
    found = json.loads(predictions or b"{}")
    return json.dumps({split: {"rows": one["rows"]} for split, one in found.items()})


def slowly(found: Record, name: str) -> Skimmed:
    """The same from a parsed record of any form."""
    science = found.science
    main: dict[str, Any] = science["main"] if isinstance(science.get("main"), dict) else {}
    sections = {key: value for key, value in found.identity.items() if key != "seed"}
    predictions = {split: {"rows": one.get("rows")} for split, one in (science.get("predictions") or {}).items()}

    def text(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    kind = Kind(
        tuple((key, text(value)) for key, value in sorted(sections.items())), text(found.code),
        text(science.get("params") or {}), text(predictions), text(found.provenance.get("device")), text(found.remarks),
        found.state, main.get("split", ""), main.get("metric", ""), found.error, "" if found.id == name else found.id,
    )  # fmt: skip
    rest = text({"scores": science.get("scores"), "cost": found.cost})
    return Skimmed(kind, found.identity.get("seed"), main.get("score"), rest)


def all_of(root: Path, names: list[str]) -> dict[str, Skimmed | str]:
    """Folder's name -> what tables need of it, or why it cannot be read."""
    found: dict[str, Skimmed | str] = {}
    kinds: dict[Kind, Kind] = {}
    for name in names:
        try:
            one = read(root / name)
        except RecordError as error:
            found[name] = str(error)
        else:
            found[name] = one._replace(kind=kinds.setdefault(one.kind, one.kind))  # equal ones once: pickled once, too
    return found


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Without the garbage collector, which would look through a million new objects again and again."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        (gc.enable if on else gc.disable)()


def main() -> None:
    """The worker of `harness.index`."""
    root, names = pickle.load(sys.stdin.buffer)  # noqa: S301 (from our own parent)
    with no_collection():
        pickle.dump(all_of(root, names), sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)
