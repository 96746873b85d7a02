"""Tokenised splits, kept on disk: the second run with the same rows, tokenizer and lengths reads instead of encoding.

A file is named by the digest of all that decides its content, and written atomically: any number of processes may
share the folder, on any file system, and the worst that can happen is that two of them do the same work. It lies under
`$HARNESS_CACHE` or `~/.cache/harness`, holds token ids only (no text, no labels), and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness import atomic
from harness.data import Encoded, encode
from harness.identity import digest
from harness.mixture import Mixture
from harness.splits import Split, fingerprint
from harness.task import Task

FORMAT = 1  # of the files; another one is another name
COLUMNS = ("input_ids", "token_type_ids", "targets")


def folder() -> Path:
    """Where the files are."""
    base = os.environ.get("HARNESS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "harness")
    return Path(base).expanduser() / "tokens"


class Tokens:
    """A tokenizer that remembers.

    Args:
        tokenizer: a fast tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        backend = tokenizer.backend_tokenizer
        # Both are set anew by every call, and would make the same tokenizer look like two.
        backend.no_truncation()
        backend.no_padding()
        content = hashlib.sha256(backend.to_str().encode()).hexdigest()
        libraries = [version("transformers"), version("tokenizers")]
        sides = [tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_input_names]
        self.fingerprint = digest([type(tokenizer).__name__, content, sides, libraries, FORMAT])

    def of(self, task: Task, split: str, lengths: dict[str, int]) -> Encoded | Mixture:
        """A split of a task; of several tasks together, of those that have it."""
        if not task.parts:
            return self.encode(task.splits[split], kind=task.kind, **lengths)
        parts = {name: self.encode(part.splits[split], kind=part.kind, **lengths)
                 for name, part in task.parts.items() if part.has(split)}  # fmt: skip
        return Mixture(task.kind, parts, task.temperature)

    def encode(self, split: Split, *, kind: str, max_length_tokens: int, max_target_tokens: int) -> Encoded:
        """As `data.encode`, from the disk where it was done before.

        A folder that cannot be written is warned about once; the run goes on.
        """
        lengths = {"max_length_tokens": max_length_tokens, "max_target_tokens": max_target_tokens}
        written = kind == "generation"
        name = digest([self.fingerprint, fingerprint([], {"": split}), written, lengths])
        path = folder() / name[:2] / f"{name}.npz"
        found = _read(path, split, kind, self.tokenizer.pad_token_id)
        if found is None:
            found = encode(split, self.tokenizer, kind=kind, **lengths)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write(path, _bytes(found))
            except OSError as error:
                warnings.warn(f"tokenised rows cannot be kept in {folder()}: {error}", stacklevel=2)
        return found


def _bytes(encoded: Encoded) -> bytes:
    arrays: dict[str, Any] = {"truncated": np.asarray(encoded.truncated_rows)}
    for name in COLUMNS:
        rows = getattr(encoded, name)
        if rows is None or (name == "targets" and encoded.kind != "generation"):
            continue
        arrays[name] = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
        arrays[f"{name}_ends"] = np.cumsum([len(row) for row in rows])
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # not compressed: reading is what must be fast
    return sink.getvalue()


def _read(path: Path, split: Split, kind: str, pad_token_id: int) -> Encoded | None:
    """What a file holds; None where there is none, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = {name: np.split(stored[name], stored[f"{name}_ends"][:-1]) for name in COLUMNS if name in stored}
            truncated = int(stored["truncated"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if any(len(rows) != len(split) for rows in columns.values()) or "input_ids" not in columns:
        return None
    return Encoded(
        kind=kind,
        input_ids=columns["input_ids"],
        token_type_ids=columns.get("token_type_ids"),
        targets=columns["targets"] if kind == "generation" else list(split.target),
        ids=list(split.ids),
        pad_token_id=pad_token_id,
        truncated_rows=truncated,
    )
