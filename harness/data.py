"""Text becomes token ids, and token ids become batches: seeded, each row once an epoch, padded to the longest beside.

Order has its own generator, seeded by (seed, epoch) alone: dropout, the model or the number of workers cannot shift
it, and an epoch's order can be had without those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import ConfigError, DataError, ModelError
from harness.splits import Split

CHUNK_ROWS = 4096  # tokenised at once: `tokenizers` keeps offsets and texts of all of them until the call ends
BUCKET_BATCHES = 50  # sorted by length among themselves
IGNORED = -100  # the label of padding, which no loss counts


@dataclass(frozen=True)
class Encoded:
    """A split as token ids, without padding.

    `input_ids` and `token_type_ids` have a sequence of integers a row (arrays, to be small); `targets` a class index,
    a score, or the target's token ids. `truncated_rows` counts the rows that lost tokens, source or target.
    """

    kind: str
    input_ids: Sequence[Sequence[int] | np.ndarray]
    token_type_ids: Sequence[Sequence[int] | np.ndarray] | None
    targets: Sequence[Any]
    ids: list[str]
    pad_token_id: int
    truncated_rows: int

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Source tokens of each row, int64 [rows]."""
        return np.fromiter((len(row) for row in self.input_ids), dtype=np.int64, count=len(self.input_ids))

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest source and, text to text, of the longest target. Every batch asks, so once a split."""
        return int(self.lengths.max()), max(map(len, self.targets)) if self.kind == "generation" else 0


def encode(split: Split, tokenizer: Any, *, kind: str, max_length_tokens: int, max_target_tokens: int) -> Encoded:
    """Tokenise a split.

    A pair that is too long loses tokens from the end of its longer text (`longest_first`). A row with shorter texts to
    offer has the longest one that fits.

    Args:
        split: the rows.
        tokenizer: a fast tokenizer of transformers.
        kind: `classification`, `regression` or `generation`; only the last has targets to tokenise.
        max_length_tokens: of the source, special tokens included.
        max_target_tokens: of the target, special tokens included.

    Raises:
        ConfigError: a limit that the tokenizer's special tokens take up alone.
        DataError: a row without text.
        ModelError: the tokenizer has no token to pad with.
    """
    _check(split, tokenizer)
    _room("data.max_length_tokens", max_length_tokens, tokenizer, pair=split.text_pair is not None)
    if kind == "generation":
        _room("data.max_target_tokens", max_target_tokens, tokenizer, pair=False)
    columns: dict[str, list[np.ndarray]] = {}
    truncated = np.zeros(len(split), dtype=bool)
    for start in range(0, len(split), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        pair = None if split.text_pair is None else split.text_pair[rows]
        texts = split.text[rows]
        if split.shorter is not None:
            texts = _fitting(texts, split.shorter[rows], tokenizer, max_length_tokens)
        found = tokenizer(texts, pair, truncation=True, max_length=max_length_tokens)
        _append(columns, found, ("input_ids", "token_type_ids"))
        truncated[rows] = _overflows(found, max_length_tokens)
        if kind == "generation":
            found = tokenizer(text_target=split.target[rows], truncation=True, max_length=max_target_tokens)
            _append(columns, {"targets": found["input_ids"]}, ("targets",))
            truncated[rows] |= _overflows(found, max_target_tokens)
    return Encoded(
        kind=kind,
        input_ids=columns.get("input_ids", []),
        token_type_ids=columns.get("token_type_ids"),
        targets=columns.get("targets", []) if kind == "generation" else list(split.target),
        ids=list(split.ids),
        pad_token_id=tokenizer.pad_token_id,
        truncated_rows=int(truncated.sum()),
    )


def _check(split: Split, tokenizer: Any) -> None:
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of {tokenizer.name_or_path} has no padding token; set pad_token in its files")
    for column in (split.text, split.text_pair or []):
        for name, text in zip(split.ids, column, strict=False):
            if not text.strip():
                raise DataError(f"row {name} has an empty text; every row needs something to read")


def _room(key: str, limit: int, tokenizer: Any, *, pair: bool) -> None:
    """A fast tokenizer cuts nothing where the limit is below the number of its special tokens, and says nothing."""
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if limit <= special:
        raise ConfigError(
            f"{key}={limit} leaves no room for text: {'a pair' if pair else 'a text'} takes {special} special tokens "
            f"of this tokenizer; allowed: {special + 1} and more"
        )


def _fitting(texts: list[str], shorter: list[list[str]], tokenizer: Any, limit: int) -> list[str]:
    """Of every row the longest text that fits, or its shortest one."""
    texts = list(texts)
    for level in range(max(map(len, shorter))):
        lost = _overflows(tokenizer(texts, truncation=True, max_length=limit), limit)
        texts = [more[level] if over else text for text, more, over in zip(texts, shorter, lost, strict=True)]
    return texts


def _overflows(found: Any, limit: int) -> list[bool]:
    """Which rows lost tokens; the list of what was lost is costly to ask for, and short rows have none."""
    rows = zip(found["input_ids"], found.encodings, strict=True)
    return [len(ids) >= limit and bool(encoding.overflowing) for ids, encoding in rows]


def _append(columns: dict[str, list[np.ndarray]], found: Any, names: tuple[str, ...]) -> None:
    """Add the tokenizer's rows as views of one small array, instead of a Python integer a token."""
    for name in names:
        if name in found:
            flat = np.fromiter(chain.from_iterable(found[name]), dtype=np.int32)
            ends = np.cumsum([0, *map(len, found[name])])
            columns.setdefault(name, []).extend(flat[start:end] for start, end in pairwise(ends))


def epoch_batches(
    lengths: Sequence[int] | np.ndarray, batch_size: int, *, seed: int, epoch: int, buckets: bool
) -> list[np.ndarray]:
    """The rows of every batch of one epoch: each row once, the last batch smaller where it must be.

    With `buckets`, 50 batches at a time are sorted by length before they are cut, and then the batches are shuffled:
    about as random, with a fraction of the padding. The rows of a smaller last batch are drawn before that, so that
    they are no longer or shorter than others; the number of batches is the same.

    Args:
        lengths: tokens of each row [rows].
        batch_size: rows of a batch.
        seed: of the run.
        epoch: from 0; each has its own order.
        buckets: sort by length within 50 batches.
    """
    # PCG64 and SeedSequence keep their streams over NumPy's versions; `Generator.permutation` does not promise to.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    order = _permutation(bits, len(lengths))
    full = len(order) - len(order) % batch_size
    if buckets:
        size = BUCKET_BATCHES * batch_size
        by_length = np.asarray(lengths)
        for part in (order[start : min(start + size, full)] for start in range(0, full, size)):
            part[:] = part[np.argsort(by_length[part], kind="stable")]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if buckets:
        whole = full // batch_size
        batches[:whole] = [batches[at] for at in _permutation(bits, whole)]
    return batches


def _permutation(bits: np.random.PCG64, size: int) -> np.ndarray:
    """0 ... size - 1 in random order, int64 [size]."""
    return np.argsort(bits.random_raw(size), kind="stable")


def sorted_batches(lengths: Sequence[int] | np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The rows of every batch for evaluation, longest first: least padding, and memory runs out at once or never."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def collate(encoded: Encoded, rows: Sequence[int] | np.ndarray, multiple: int = 1) -> dict[str, Tensor]:
    """One batch, padded on the right to its longest row, or to the next `multiple` that the split's longest does not exceed.

    Returns:
        `input_ids`, `attention_mask` and, where the tokenizer has them, `token_type_ids`: int64 [batch, length].
        `labels`: int64 [batch] for classification, float32 [batch] for regression, int64 [batch, target length] with
        -100 as padding for generation.
    """
    sources = [encoded.input_ids[row] for row in rows]
    width = _width(sources, multiple, lambda: encoded.longest[0])
    batch = {"input_ids": _padded(sources, width, encoded.pad_token_id)}
    held = torch.tensor([len(row) for row in sources])
    batch["attention_mask"] = (torch.arange(width) < held[:, None]).long()
    if encoded.token_type_ids is not None:
        batch["token_type_ids"] = _padded([encoded.token_type_ids[row] for row in rows], width, 0)
    targets = [encoded.targets[row] for row in rows]
    if encoded.kind == "generation":
        batch["labels"] = _padded(targets, _width(targets, multiple, lambda: encoded.longest[1]), IGNORED)
    else:
        kind = torch.int64 if encoded.kind == "classification" else torch.float32
        batch["labels"] = torch.tensor(targets, dtype=kind)
    return batch


def _width(rows: Sequence[Any], multiple: int, limit: Callable[[], int]) -> int:
    """Tokens to which rows are padded: at most the split's `limit`, which is asked for where it is needed."""
    longest = max(map(len, rows))
    return longest if multiple == 1 else min(-(-longest // multiple) * multiple, limit())


def _padded(rows: list[Any], width: int, value: int) -> Tensor:
    """int64 [rows, width]."""
    out = np.full((len(rows), width), value, dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(out)
