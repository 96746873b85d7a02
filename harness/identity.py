"""What makes two runs the same run: the hash of the resolved configuration, of data and weights by content.

Everything in the configuration can change a number, and is part of the identity, except the short list below. Paths
are replaced by what they hold: the fingerprint of the task's rows and of the backbone's files.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.config import RunConfig

# Where things are, who asks, how it is shown: none of these can change a number. `threads` may change the order of
# sums; it is part of what reproducibility is promised on (see provenance), not of what the experiment is.
OUTSIDE = {
    "": ("device", "threads", "rerun", "progress", "recipe", "results", "preflight", "wandb"),
    "data": ("root",),
    "train": ("retry_out_of_memory",),  # does nothing until memory runs out; then the record has a remark
    "method": ("declares",),
    "model": ("hub_id", "revision", "sha256", "path", "sites", "shape", "tokenizer"),  # a shape that is used is in `weights`
    "task": (
        "hub", "files", "suite", "folder", "columns", "root", "rows", "hidden", "hidden_columns", "submission",
        "max_length_tokens", "max_target_tokens", "num_beams", "validation_rows",  # as `data`, `generation`
    ),
}  # fmt: skip

# Options that came after the first records, and the value that is what runs were before: it goes unsaid, so an identity
# stays what it was.
LATER: dict[str, dict[str, Any]] = {
    "generation": {"validation_rows": None},
    "train": {
        "cache_features": False,
        "compile": False,
        "cuda_graphs": False,
        "gradient_checkpointing": False,
        "loss_reduction": "mean",
    },
}


def identity(config: RunConfig, *, data: str, weights: str, device: str, precision: str) -> dict[str, Any]:
    """The part of a resolved configuration that decides the numbers, with content in place of paths.

    Args:
        config: the resolved configuration.
        data: fingerprint of the task's rows. weights: fingerprint of the backbone's files.
        device: "cpu" or "cuda". precision: "float32" or "bfloat16", resolved.
    """
    kept = asdict(config)
    for group, names in OUTSIDE.items():
        for section in _sections(kept, group):
            for name in names:
                section.pop(name, None)
    for group, words in LATER.items():
        for name in [name for name, neutral in words.items() if kept[group][name] == neutral]:
            del kept[group][name]
    if kept.pop("pack") > 1:  # as many as came together: the number changes no law
        kept["packed"] = True
    kept["train"]["precision"] = precision
    return kept | {"content": {"data": data, "weights": weights, "device": device}}


def _sections(kept: dict[str, Any], group: str) -> list[dict[str, Any]]:
    """A group's section; the tasks of one run are sections too, and a task alone says nothing of others."""
    section: dict[str, Any] = kept[group] if group else kept
    parts = list(section.get("parts", {}).values())
    for one in [*parts, *([] if parts else [section])]:
        for name in ("tasks", "temperature", "parts") if group == "task" else ():
            one.pop(name, None)
    return [section, *parts]


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form, as 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def run_id(identity: dict[str, Any]) -> str:
    """`task.model.method.budget.s<seed>.<hash>`: readable, safe as a folder's name on every file system.

    A packed run (harness/pack.py) has `packed` before its seed.
    """
    names = [
        identity["task"]["name"],
        identity["model"]["name"],
        identity["method"]["name"],
        identity["budget"]["name"],
    ]
    words = [re.sub(r"[^A-Za-z0-9_-]+", "-", str(name)).strip("-")[:40] or "x" for name in names]
    packed = ["packed"] if "packed" in identity else []
    return ".".join([*words, *packed, f"s{identity['seed']}", digest(identity)[:12]])


class Known(dict[str, Any]):
    """An identity whose group is known already. Not to be changed."""

    def __init__(self, content: dict[str, Any], group: str) -> None:
        super().__init__(content)
        self.group = group


def group(identity: dict[str, Any]) -> str:
    """The digest of everything but the seed: runs that share it may be averaged, others never."""
    if isinstance(identity, Known):
        return identity.group
    return digest({key: value for key, value in identity.items() if key != "seed"})


def hash_files(paths: list[Path]) -> str:
    """SHA-256 over the names and contents of some files, in the given order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name}\0".encode())
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
