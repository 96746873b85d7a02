"""What tables need of a store's records, in one file: 100,000 records in a second instead of a minute.

`.index.json` in the store's folder is derived from the records and never the source of truth: every record.json whose
time or size differs from what the index saw is read again, and a missing, foreign or damaged index is made anew. It is
safe to delete. Where the folder cannot be written nothing is kept.

Records come back without configuration, recipe, losses, curve and trace, and share what they have in common.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harness import atomic, record
from harness.cells import Stale
from harness.errors import RecordError
from harness.identity import Known, digest
from harness.record import DONE, Record, Unreadable

NAME = ".index.json"
VERSION = 1
SHARED = ("identity", "code", "params", "predictions", "provenance", "remarks")
TOP, INSIDE = re.compile(rb'\n "(\w+)": '), re.compile(rb'\n  "(\w+)": ')
SEED = re.compile(rb'\n  "seed": (-?\d+),?')


class Seen(NamedTuple):
    """A record as the index keeps it: what is shared by number, the rest as it is."""

    id: str
    state: str
    seed: Any
    shared: tuple[int, ...]
    main: Any
    scores: Any
    cost: Any
    error: str


class Pool:
    """Values by number, each once; and in the form that records share."""

    def __init__(self, held: dict[str, list[str]] | None = None) -> None:
        self.texts: dict[str, list[str]] = held or {name: [] for name in SHARED}
        self._numbers = {name: {text: number for number, text in enumerate(self.texts[name])} for name in SHARED}
        self._values: dict[str, list[Any]] = {name: [json.loads(t) for t in self.texts[name]] for name in SHARED}
        self._groups: dict[int, str] = {}

    def put(self, name: str, text: str) -> int:
        """The number of a value given as JSON; raises ValueError where it is none."""
        if text not in self._numbers[name]:
            self._values[name].append(json.loads(text))
            self.texts[name].append(text)
            self._numbers[name][text] = len(self.texts[name]) - 1
        return self._numbers[name][text]

    def get(self, name: str, number: int) -> Any:
        """The value of a number."""
        return self._values[name][number]

    def identity(self, number: int, seed: Any) -> Known:
        """An identity that knows its group. seed: None where the record has none."""
        rest = self._values["identity"][number]
        if number not in self._groups:
            self._groups[number] = digest(rest)
        return Known(rest if seed is None else {**rest, "seed": seed}, self._groups[number])


def read_all(root: Path) -> list[Record | Unreadable]:
    """Every record of the store as tables need it, in the order of their names, as record.read_all would yield them."""
    with no_collection():
        there = dict(_files(root))
        stamps, pool, seen = _load(root / NAME)
        changed = [name for name, stamp in there.items() if stamps.get(name) != stamp]
        unreadable: dict[str, Unreadable] = {}
        for name in changed:
            try:
                seen[name] = _read(root / name, pool)
            except RecordError as error:
                unreadable[name] = Unreadable(root / name / "record.json", str(error))
        gone = seen.keys() - there.keys()
        if changed or gone:
            kept = {name: seen[name] for name in there if name not in unreadable}
            _save(root / NAME, {name: there[name] for name in kept}, pool, kept)
        return [unreadable.get(name) or _record(seen[name], pool) for name in there]


def remembered(stale: Stale) -> Stale:
    """The same question, asked once of all records that share their code and method."""
    known: dict[tuple[int, str], tuple[list[str], Any]] = {}

    def ask(one: Record) -> list[str]:
        key = id(one.code), str((one.identity.get("method") or {}).get("_target_"))
        if key not in known:
            known[key] = stale(one), one.code  # kept, so that nothing else gets its id
        return known[key][0]

    return ask


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Without the garbage collector, which would look through a million new objects again and again."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        (gc.enable if on else gc.disable)()


def _files(root: Path) -> Iterator[tuple[str, list[int]]]:
    """Folder's name -> time and size of its record.json, in the order of names."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    at = f"{root}{os.sep}"
    for name in names:
        try:
            found = os.stat(f"{at}{name}/record.json")
        except FileNotFoundError:
            continue
        yield name, [found.st_mtime_ns, found.st_size]


def _read(folder: Path, pool: Pool) -> Seen:
    """One record from its file. Raises RecordError as record.read does."""
    try:
        data = (folder / "record.json").read_bytes()
        return _quickly(data, pool)
    except (OSError, ValueError, KeyError):
        found = record.read(folder)  # not as we write them: slowly, and with the message of what is wrong
    if found is None:
        raise RecordError(f"{folder / 'record.json'} vanished while it was read")
    return _slowly(found, pool)


def _sections(data: bytes, pattern: re.Pattern[bytes], end: bytes) -> dict[str, bytes]:
    """Key -> its value's bytes in an object as `atomic.to_json` writes it: one key a line, at a known indentation."""
    marks = list(pattern.finditer(data))
    ends = [*(mark.start() for mark in marks[1:]), data.rindex(end)]
    return {mark[1].decode(): data[mark.end() : stop].rstrip(b",") for mark, stop in zip(marks, ends, strict=True)}


def _quickly(data: bytes, pool: Pool) -> Seen:
    """A record from the bytes that `atomic.to_json` wrote, without parsing what tables do not need.

    JSON has no raw line break inside a string, so a line that starts with one blank and a quote starts a top-level key.
    Raises ValueError or KeyError where the bytes are of another form.
    """
    top = _sections(data, TOP, b"\n}")
    if top.keys() != Record.__dataclass_fields__.keys() or int(top["schema"]) != record.SCHEMA:
        raise ValueError("not a record of this schema")
    state, science = json.loads(top["state"]), {}
    if state not in record.STATES or not top["config"].startswith(b"{"):
        raise ValueError("not a state")
    if state == DONE:
        science = _sections(top["science"], INSIDE, b"\n }")
    rest, seeds = SEED.subn(b"", top["identity"])
    match = SEED.search(top["identity"])
    if seeds != 1 or match is None:
        raise ValueError("not one seed")
    texts = {
        "identity": rest.replace(b",\n }", b"\n }"), "code": top["code"], "provenance": _placed(top["provenance"]),
        "params": science.get("params", b"{}"), "predictions": _counted(science), "remarks": top["remarks"],
    }  # fmt: skip
    shared = tuple(pool.put(name, texts[name].decode()) for name in SHARED)
    main, scores = (json.loads(science[name]) if name in science else None for name in ("main", "scores"))
    if state == DONE and not isinstance(main, dict):
        raise ValueError("no score")
    return Seen(
        json.loads(top["id"]),
        state,
        int(match[1]),
        shared,
        main,
        scores,
        json.loads(top["cost"]),
        json.loads(top["error"]),
    )


def _placed(provenance: bytes) -> bytes:
    """Of a provenance the device alone: the rest differs in every run."""
    return json.dumps({"device": json.loads(provenance).get("device")}).encode()


def _counted(science: dict[str, bytes]) -> bytes:
    """Of the predictions the numbers of rows alone: digests differ in every run."""
    found = json.loads(science.get("predictions", b"{}"))
    return json.dumps({split: {"rows": one["rows"]} for split, one in found.items()}).encode()


def _slowly(found: Record, pool: Pool) -> Seen:
    """The same from a parsed record of any form."""
    science = found.science
    rest = {key: value for key, value in found.identity.items() if key != "seed"}
    values = {
        "identity": rest, "code": found.code, "params": science.get("params") or {}, "remarks": found.remarks,
        "provenance": {"device": found.provenance.get("device")}, "predictions": science.get("predictions") or {},
    }  # fmt: skip
    shared = tuple(pool.put(name, json.dumps(values[name], sort_keys=True)) for name in SHARED)
    return Seen(
        found.id, found.state, found.identity.get("seed"), shared, science.get("main"), science.get("scores"),
        found.cost, found.error,
    )  # fmt: skip


def _record(seen: Seen, pool: Pool) -> Record:
    """A record as tables need it."""
    identity, code, params, predictions, provenance, remarks = seen.shared
    science = {
        "main": seen.main,
        "params": pool.get("params", params),
        "predictions": pool.get("predictions", predictions),
    }
    if seen.scores is not None:
        science["scores"] = seen.scores
    return Record(
        seen.id, seen.state, pool.identity(identity, seen.seed), {}, {}, science if seen.state == DONE else {},
        seen.cost, pool.get("code", code), pool.get("provenance", provenance), pool.get("remarks", remarks), seen.error,
    )  # fmt: skip


def _load(path: Path) -> tuple[dict[str, list[int]], Pool, dict[str, Seen]]:
    """Stamps, pool and records of an index; empty ones where there is none that this version can read."""
    try:
        held = json.loads(path.read_bytes())
        if held["version"] != VERSION:
            return {}, Pool(), {}
        seen = {name: Seen(*one) for name, one in zip(held["names"], held["seen"], strict=True)}
        return dict(zip(held["names"], held["stamps"], strict=True)), Pool(held["pool"]), seen
    except (OSError, ValueError, KeyError, TypeError):
        return {}, Pool(), {}


def _save(path: Path, stamps: dict[str, list[int]], pool: Pool, seen: dict[str, Seen]) -> None:
    """Keep the index, if the folder can be written."""
    content = {"version": VERSION, "names": list(stamps), "stamps": list(stamps.values()), "pool": pool.texts,
               "seen": list(seen.values())}  # fmt: skip
    with contextlib.suppress(OSError):
        atomic.write(path, json.dumps(content, separators=(",", ":")).encode())
