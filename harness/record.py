"""One directory a run; the store is a folder of them. State is read from here and from nowhere else.

    results/runs/<run id>/
        record.json            state, identity, configuration, science, cost, provenance; written last, atomically
        predictions.<split>.parquet   one row an example: id, prediction, label or score, logits (never dataset text)
        checkpoints/           where an interrupted run goes on (harness/checkpoint.py); gone when it is done
        adapter/               the trained adapter and head, as peft writes them
        owner.json, heartbeat  who runs it now (harness/claim.py)
        log.txt                what was printed, and the traceback of a failure

A run is DONE if and only if its record.json says so; it says so only after everything else is on disk. The *scientific
part* (`science`) is bit-identical for the same seed on the same machine's CPU; cost and provenance stand apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import atomic, scrub
from harness.errors import RecordError

SCHEMA = 1
DONE, RUNNING = "DONE", "RUNNING"
FAILED, DIVERGED, OUT_OF_MEMORY = "FAILED", "DIVERGED", "OUT_OF_MEMORY"
PREEMPTED, TIMEOUT = "PREEMPTED", "TIMEOUT"
NAME = re.compile(r"\w[\w.-]{0,250}", re.ASCII)  # a run's id, a file of its folder: it cannot lead elsewhere
STATES = (DONE, FAILED, DIVERGED, OUT_OF_MEMORY, PREEMPTED, TIMEOUT, RUNNING)


@dataclass(frozen=True)
class Record:
    """One run, as it stands in its record.json.

    Attributes:
        id: the run's name, from its identity (harness/identity.py). state: one of STATES.
        identity: what decides the numbers. config: the whole resolved configuration.
        recipe: which hyper-parameter rows were applied, and from where.
        science: scores by split (percent), the `main` score, per-step losses, learning curve, parameter counts, digests
            of predictions and adapter. Empty unless DONE.
        cost: seconds, tokens, bytes. code: hash of the code that makes numbers, and the pinned versions.
        provenance: commit, device, threads, times. remarks: what a reader must know (subset, fallback recipe, ...).
        error: why it is not DONE, or "".
    """

    id: str
    state: str
    identity: dict[str, Any]
    config: dict[str, Any]
    recipe: dict[str, str]
    science: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    error: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Unreadable:
    """A record.json that is truncated, foreign or newer: named in every table, never skipped in silence."""

    path: Path
    reason: str


def write(folder: Path, record: Record) -> None:
    """Replace the folder's record.json atomically."""
    atomic.write(folder / "record.json", atomic.to_json(scrub.scrubbed(asdict(record))))


def read(folder: Path) -> Record | None:
    """The folder's record, or None where there is none yet. Raises RecordError naming the file that is unreadable."""
    path = folder / "record.json"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise RecordError(
            f"results.root={folder.parent} is, or lies in, a file; give a folder, such as results/runs"
        ) from error
    except (ValueError, OSError) as error:
        raise RecordError(f"{path} cannot be read ({error}); remove that folder and run again") from error
    return _checked(path, content)


def _checked(path: Path, content: Any) -> Record:
    """A Record from parsed JSON. Raises RecordError for a foreign, newer or mistyped one."""
    if not isinstance(content, dict) or "schema" not in content:
        raise RecordError(f"{path} is not a record of this harness; move it out of the store")
    if content["schema"] != SCHEMA:
        raise RecordError(
            f"{path} has schema {content['schema']} and this version reads schema {SCHEMA}; "
            "update the harness, or keep that record in a store of its own"
        )
    if strange := content.keys() ^ Record.__dataclass_fields__.keys():
        raise RecordError(
            f"{path} lacks or adds the fields {', '.join(sorted(strange))}; remove that folder and run again"
        )
    if content["state"] not in STATES:
        raise RecordError(f"{path} has the state {content['state']!r}; allowed: {', '.join(STATES)}")
    for name in ("identity", "config", "science", "cost", "code", "provenance"):
        if not isinstance(content[name], dict):
            raise RecordError(f"{path}: '{name}' must be a mapping, found {type(content[name]).__name__}")
    _check_names(path, content)
    if content["state"] == DONE and "main" not in content["science"]:
        raise RecordError(f"{path} claims to be DONE and holds no score; remove that folder and run again")
    return Record(**content)


def _check_names(path: Path, content: dict[str, Any]) -> None:
    """Raises RecordError where a name that becomes a path would lead out of the record's own folder."""
    if not (isinstance(content["id"], str) and NAME.fullmatch(content["id"])):
        raise RecordError(
            f"{path} has the id {str(content['id'])[:80]!r}, which is no run's name; move it out of the store"
        )
    saved, main = content["science"].get("predictions") or {}, content["science"].get("main") or {}
    files = (
        [one.get("file") if isinstance(one, dict) else None for one in saved.values()]
        if isinstance(saved, dict)
        else [None]
    )
    split = main.get("split", "test") if isinstance(main, dict) else None
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in [*files, split]):
        raise RecordError(f"{path} names predictions outside its own folder; move it out of the store")


def read_all(root: Path) -> Iterator[Record | Unreadable]:
    """Every record of the store, in the order of their names; those that cannot be read come as Unreadable."""
    if not root.is_dir():
        return
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        try:
            record = read(folder)
        except RecordError as error:
            yield Unreadable(folder / "record.json", str(error))
        else:
            if record is not None:
                yield record
