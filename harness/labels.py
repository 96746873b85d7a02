"""What tells a configuration from others of its method, backbone and budget: `train.learning_rate=0.001`."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import Any

OF_ONE_TASK = ("task.", "content.data")  # differ between any two tasks: tell configurations apart within one only
WORDS = {
    "model.init=pretrained": "",
    "model.init=random": "random weights",
    "quantization.name=none": "",
    "content.device=cpu": "on a CPU",
    "content.device=cuda": "on a GPU",
}
LONGEST = 32  # characters of a value
Flat = dict[str, str]


def labels(groups: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Group -> what tells it from other configurations of its method, backbone and budget; "" where nothing does.

    Args:
        groups: identities by group. Those that share a section's object are not looked at twice.
    """
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for group, kept in groups.items():
        rows[tuple(str(kept[part]["name"]) for part in ("model", "budget", "method"))].append(group)
    known: dict[tuple[str, int], Flat] = {}
    found: dict[str, str] = {}
    for members in rows.values():
        if len(members) == 1:
            found[members[0]] = ""
        else:
            found |= _of_row({group: _whole(groups[group], known) for group in members})
    return found


def _whole(kept: dict[str, Any], known: dict[tuple[str, int], Flat]) -> Flat:
    """An identity without its seed, flat. known: sections done before, by key and object."""
    whole: Flat = {}
    for key, section in kept.items():
        if key != "seed":
            at = key, id(section)
            if at not in known:
                known[at] = _flat(section, key)
            whole |= known[at]
    return whole


def _flat(value: Any, prefix: str) -> Flat:
    """Nested mappings as dotted key -> JSON text; a SHA-256 is cut to 8 digits."""
    if not isinstance(value, dict):
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        return {prefix: text[:8] if prefix.startswith("content.") and len(text) == 64 else text}
    whole: Flat = {}
    for key, inner in value.items():
        whole |= _flat(inner, f"{prefix}.{key}")
    return whole


def _of_row(flats: dict[str, Flat]) -> dict[str, str]:
    """Labels within one row: the keys that vary within any task, with each group's values, in words where there are."""
    tasks: dict[str, list[Flat]] = defaultdict(list)
    for flat in flats.values():
        tasks[flat["task.name"]].append(flat)
    varying = {task: _varying(members) for task, members in tasks.items()}
    everywhere = {key for keys in varying.values() for key in keys if not key.startswith(OF_ONE_TASK)}
    return {
        group: ", ".join(filter(None, (_words(key, flat) for key in sorted(everywhere | varying[flat["task.name"]]))))
        for group, flat in flats.items()
    }


def _varying(members: list[Flat]) -> set[str]:
    """The keys that differ; of digests (`content.*`) only those that tell more apart than the other keys do."""
    if len(members) == 1:
        return set()
    first = members[0]
    found = {key for flat in members[1:] for key, _ in flat.items() ^ first.items()}
    for key in sorted(key for key in found if key.startswith("content.")):
        rest = found - {key}
        if len(_apart(members, rest)) == len(_apart(members, found)):
            found = rest
    return found


def _apart(members: list[Flat], keys: set[str]) -> set[tuple[str | None, ...]]:
    order = sorted(keys)
    return {tuple(flat.get(key) for key in order) for flat in members}


def _words(key: str, flat: Flat) -> str:
    value = flat.get(key, "unset")
    if len(value) > LONGEST:  # a regular expression, say: enough to know it by, and to tell it from another
        value = f"{value[: LONGEST - 8]}…{hashlib.sha256(value.encode()).hexdigest()[:4]}"
    text = f"{key}={value}"
    return WORDS.get(text, text.replace("content.weights=", "weights ").replace("content.data=", "data "))
