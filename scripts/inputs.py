"""Bad input of every kind, drawn by hypothesis and handed to what reads it: the surfaces of scripts/fuzz.py.

Each surface takes hypothesis' `data` and an empty folder; it returns, or raises what the reader raised.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from commands import VALUES, command_line, whole_command
from hypothesis import strategies as st

from harness import compose, files, published, recipe, record, rows, shapes, skim
from harness.errors import HarnessError
from harness.paths import CONF, EMBEDDED, PACKAGE, PUBLISHED
from harness.schema import SHAPES


def _spoilt(content: Any, data: Any) -> Any:
    """A parsed file with one key deleted, added or given another value, somewhere."""
    if not isinstance(content, dict) or not content:
        return data.draw(VALUES)
    key = data.draw(st.sampled_from(sorted(content, key=str)))
    kind = data.draw(st.sampled_from(["delete", "replace", "add", "deeper"]))
    if kind == "delete":
        return {name: value for name, value in content.items() if name != key}
    if kind == "add":
        return content | {data.draw(st.text(max_size=6)): data.draw(VALUES)}
    inside = content[key]
    return content | {
        key: _spoilt(inside, data) if kind == "deeper" and isinstance(inside, dict) else data.draw(VALUES)
    }


FILES = sorted(path for group in ("method", "task", "model", "budget", "quantization") for path in (CONF / group).rglob("*.yaml")
               if not path.name.startswith("_"))  # fmt: skip


def one_yaml(data: Any, folder: Path) -> None:
    """A group's option with something wrong in it, found through a search path."""
    path = data.draw(st.sampled_from(FILES))
    group = path.relative_to(CONF).parts[0]
    content = _spoilt(yaml.safe_load(path.read_text()), data)
    target = folder / group / "spoilt.yaml"
    target.parent.mkdir(exist_ok=True, parents=True)
    name = path.relative_to(CONF / group).parts
    text = yaml.safe_dump(content, allow_unicode=True)
    if len(name) > 1:  # a nested option finds its neighbours by relative names
        target = folder / group / name[0] / "spoilt.yaml"
        target.parent.mkdir(exist_ok=True)
    target.write_bytes(text.encode("utf-8", "replace"))
    option = target.relative_to(folder / group).with_suffix("").as_posix()
    compose.composed([f"hydra.searchpath=[file://{folder}]", f"{group}={option}"])


def recipe_rows(data: Any, folder: Path) -> None:
    """A recipe file with bytes changed, and another key in a row."""
    path = data.draw(st.sampled_from(sorted((CONF / "recipe").glob("*.toml"))))
    target = folder / path.name
    target.write_bytes(_mangled(path.read_bytes(), data))
    recipe._checked(target)
    rows.read(target, "rows", recipe.CONDITIONS, ("tag", "tags", "search", "seeds"), "set")


def _mangled(content: bytes, data: Any) -> bytes:
    """Some bytes of a file gone, doubled, changed or put in, or all after a place cut off."""
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(chance.randint(1, 4)):
        at, width = chance.randrange(len(content) + 1), chance.randint(1, 30)
        pieces = [b"", content[at : at + width] * 2, chance.randbytes(width), content[:at][-width:], b"\t", b'"', b"{}", b"null",
                  b"-1", b"\xff", b"\n", "\u2028".encode(), b"NaN", b"[[[", b"\x00", b"1e999", b'"\\ud800"']  # fmt: skip
        kind = chance.random()
        content = (
            content[:at] if kind < 0.1 else content[:at] + chance.choice(pieces) + content[at + width * (kind < 0.6) :]
        )
    return content


TABLES = sorted(EMBEDDED.glob("tasks/*/*.tsv")) + sorted(EMBEDDED.glob("tasks/*/*.jsonl"))
NAMES = st.sampled_from([
    "passage", "text", "entities", "qas", "query", "answers", "start", "end", "idx", "label", "questions", "question",
    "target", "span1_text", "span1_index", "word", "sentence1", "sentence2", "start1", "end1", "start2", "end2", "premise",
    "choice1", "choice2", "paragraph",
])  # fmt: skip
JSON = st.recursive(
    VALUES | st.sampled_from(["text", "0", 0, 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)


def data_files(data: Any, folder: Path) -> None:
    """A task's files with bytes changed; lines of JSON with any shape."""
    if data.draw(st.booleans()):
        path = data.draw(st.sampled_from(TABLES))
        head = b"".join(path.read_bytes().splitlines(keepends=True)[:12])
        target = folder / path.name
        target.write_bytes(_mangled(head, data))
        names = head.decode().split("\n")[0].split("\t")
        wanted = {"text": names[0], "target": names[-1]}
        files.read(target, wanted, skip_broken=data.draw(st.booleans()))
        return
    target = folder / "lines.jsonl"
    said = data.draw(st.lists(st.dictionaries(NAMES, JSON, min_size=1), min_size=1, max_size=3))
    target.write_bytes(b"\n".join(json.dumps(one, ensure_ascii=True).encode() for one in said))
    for number, found in files.objects(target):
        shape = data.draw(st.sampled_from([name for name in SHAPES if hasattr(shapes, name)]))
        list(getattr(shapes, shape)(shapes.Found(f"{target}:{number}", found), number, data.draw(st.booleans())))


RECORDS = sorted((PACKAGE.parent / "results" / "reference").glob("*/record.json"))[:5]


def record_file(data: Any, folder: Path) -> None:
    """A record with bytes or values changed, read whole and as tables read it."""
    path = data.draw(st.sampled_from(RECORDS))
    content = path.read_bytes()
    if data.draw(st.booleans()):
        content = _mangled(content, data)
    else:
        content = json.dumps(_spoilt(json.loads(content), data), indent=1, sort_keys=True).encode()
    at = folder / path.parent.name
    at.mkdir(exist_ok=True)
    (at / "record.json").write_bytes(content)
    list(record.read_all(folder))
    with contextlib.suppress(HarnessError):
        skim.read(at)
    record.read(at)


def published_table(data: Any, folder: Path) -> None:
    """A published table with bytes changed."""
    path = data.draw(st.sampled_from(sorted(PUBLISHED.glob("*.toml"))))
    target = folder / path.name
    target.write_bytes(_mangled(path.read_bytes(), data))
    published.read(target)


SURFACES: dict[str, Callable[[Any, Path], None]] = {
    "command line": command_line,
    "whole command": whole_command,
    "yaml": one_yaml,
    "recipe": recipe_rows,
    "data": data_files,
    "record": record_file,
    "table": published_table,
}
