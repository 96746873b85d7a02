"""Splits: rows by columns and their digest, the papers' special arrangements, whole groups, and what occurs twice.

PROPETL (as HyperFormer, Compacter and LST before it) has test sets with labels made from the public splits, all with
the data seed 42 (commit 1c08f19 of its repository). Small tasks: the validation set is permuted and halved, the first
half validates, the second tests. Large tasks: the first 1,000 rows of a permutation of the training set validate, the
rest trains, and the official validation set tests. MNLI in the T5 experiments: mismatched validates, matched tests; in
the RoBERTa experiments it is one of the large tasks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from itertools import chain
from typing import Any

from harness.errors import ConfigError

NOT_COUNTED = re.compile(r"[\W_]+")
DATA_SEED = 42
HELD_OUT_ROWS = 1000
SMALL = ("cola", "mrpc", "rte", "stsb", "wnli", "boolq", "cb", "copa", "multirc", "wic", "wsc")
LARGE = ("qnli", "qqp", "sst2", "record")


@dataclass(frozen=True)
class Split:
    """One split, by columns. `target` holds class indices, scores or target texts, by the task's kind.

    `groups` says which rows belong together (answers of a question, candidates of a query). `truth` is what a metric
    compares with where that is not the target: class or score behind an answer in words, several reference texts, what
    choosing a candidate earns. `shorter` has, for every row, texts to take in turn where the text is too long.
    """

    ids: list[str]
    text: list[str]
    text_pair: list[str] | None
    target: list[int] | list[float] | list[str]
    groups: list[str] | None = None
    truth: list[Any] | None = None
    shorter: list[list[str]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Iterable[int]) -> Split:
        """Some rows, in the given order; their ids stay."""
        rows = list(rows)
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Split(**{name: column and [column[row] for row in rows] for name, column in columns.items()})


def fingerprint(labels: list[str] | tuple[str, ...], splits: dict[str, Split]) -> str:
    """SHA-256 (hex) over the label order and the rows of every split, in order; ids are left out."""
    digest = hashlib.sha256()
    for part in (list(labels), *([name, *_content(split)] for name, split in sorted(splits.items()))):
        # JSON, so that no two different lists of rows can read the same.
        digest.update(json.dumps(part).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _content(split: Split) -> list[Any]:
    more = [split.groups, split.truth, split.shorter]
    return [split.text, split.text_pair, split.target, *(more if any(more) else [])]


def arrange(scheme: str, task: str, splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits of a named scheme, from the official ones.

    Raises:
        ConfigError: the scheme says nothing of this task, or a split that it needs is missing.
    """
    if scheme == "official":
        return dict(splits)
    short = task.rpartition("/")[2]
    if scheme == "every_tenth":
        return _every_tenth(_needed(splits, "train", scheme)) | {k: v for k, v in splits.items() if k != "train"}
    if short == "mnli" and scheme == "propetl_t5":
        mismatched, matched = _needed(splits, "mismatched", scheme), _needed(splits, "validation", scheme)
        return {"train": splits["train"], "validation": mismatched, "test": matched}
    if short in SMALL:
        return {"train": splits["train"]} | _halves(_needed(splits, "validation", scheme))
    if short in LARGE or short == "mnli":
        return _held_out(_needed(splits, "train", scheme)) | {"test": _needed(splits, "validation", scheme)}
    known = ", ".join((*SMALL, *LARGE, "mnli"))
    raise ConfigError(f"task.splits={scheme} is not defined for task {task}; it is for {known}")


def _needed(splits: Mapping[str, Split], name: str, scheme: str) -> Split:
    if name not in splits:
        raise ConfigError(f"task.splits={scheme} needs the official split '{name}'; there is {', '.join(splits)}")
    return splits[name]


def _permutation(size: int) -> list[int]:
    """PyTorch's random permutation of the data seed: the papers', row by row."""
    import torch

    return torch.randperm(size, generator=torch.Generator().manual_seed(DATA_SEED)).tolist()


def _units(split: Split) -> list[list[int]]:
    """The rows that must stay together: the rows of each group, or every row for itself."""
    if split.groups is None:
        return [[row] for row in range(len(split))]
    units: dict[str, list[int]] = {}
    for row, group in enumerate(split.groups):
        units.setdefault(group, []).append(row)
    return list(units.values())


def _drawn(split: Split) -> list[list[int]]:
    units = _units(split)
    return [units[at] for at in _permutation(len(units))]


def _halves(validation: Split) -> dict[str, Split]:
    units = _drawn(validation)
    half = len(units) // 2
    return {
        name: validation.take(chain(*part)) for name, part in (("validation", units[:half]), ("test", units[half:]))
    }


def _held_out(train: Split) -> dict[str, Split]:
    units = _drawn(train)
    held, kept = chain(*units[:HELD_OUT_ROWS]), chain(*units[HELD_OUT_ROWS:])
    return {"train": train.take(kept), "validation": train.take(held)}


def _every_tenth(train: Split) -> dict[str, Split]:
    """The tenth, twentieth, ... training row validates: where rows stand by task, every task gives its share."""
    held = set(range(9, len(train), 10))
    rest = (row for row in range(len(train)) if row not in held)
    return {"train": train.take(rest), "validation": train.take(sorted(held))}


def first(split: Split, limit: int) -> Split:
    """The first rows, at most `limit`; whole groups where at least one fits."""
    if split.groups is not None and limit < len(split):
        whole = limit
        while whole and split.groups[whole] == split.groups[whole - 1]:
            whole -= 1
        limit = whole or limit
    return split.take(range(min(limit, len(split))))


def repeated(train: Split, other: Split) -> int:
    """How many rows of another split have the texts of a training row; only letters and digits count."""
    seen = set(_normal(train))
    return sum(row in seen for row in _normal(other))


def _normal(split: Split) -> Iterable[str]:
    # The passage of many questions is cleaned once.
    clean = cache(lambda text: NOT_COUNTED.sub("", text.casefold()))
    pairs = split.text_pair or [""] * len(split)
    for text, pair in zip(split.text, pairs, strict=True):
        yield f"{clean(text)}|{clean(pair)}"
