"""How a batch of documents is corrupted for pre-training: masked words, infilled spans, sentinels."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from demo_corpus import CONNECTIVES
from demo_tokenizers import SENTINELS
from torch import Tensor
from transformers import PreTrainedTokenizerFast

Batch = dict[str, Tensor]
Corrupt = Callable[[list[list[int]], random.Random], Batch]
IGNORED = -100


def pad(rows: list[list[int]], value: int) -> Tensor:
    """A rectangular tensor of the rows."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def as_batch(inputs: list[list[int]], labels: list[list[int]], padding: int) -> Batch:
    """Padded tensors of inputs and labels."""
    ids = pad(inputs, padding)
    return {"input_ids": ids, "attention_mask": (ids != padding).long(), "labels": pad(labels, IGNORED)}


def connective_ids(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """The token that each connective begins with."""
    words = [f" {word}" for choice in CONNECTIVES.values() for word in choice]
    return {tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words}


def mask_tokens(tokenizer: PreTrainedTokenizerFast) -> Corrupt:
    """Masked language modelling as in BERT; never of punctuation, and of a connective every other time.

    A connective is the only word that tells how two clauses relate, so masking it often is what makes the model
    compare them.
    """
    fixed = set(tokenizer.all_special_ids) | set(tokenizer(".,", add_special_tokens=False)["input_ids"])
    connectives = connective_ids(tokenizer)
    mask, size, padding = tokenizer.mask_token_id, len(tokenizer), tokenizer.pad_token_id

    def corrupt(rows: list[list[int]], rng: random.Random) -> Batch:
        inputs, labels = [], []
        for row in rows:
            before, after = list(row), [IGNORED] * len(row)
            for place, token in enumerate(row):
                if token in fixed or rng.random() >= (0.5 if token in connectives else 0.2):
                    continue
                after[place] = token
                draw = rng.random()
                before[place] = mask if draw < 0.8 else rng.randrange(size) if draw < 0.9 else token
            inputs.append(before)
            labels.append(after)
        return as_batch(inputs, labels, padding)

    return corrupt


def spans(length: int, share: float, mean: float, rng: random.Random) -> list[tuple[int, int]]:
    """Disjoint spans (start, end) that cover about `share` of the positions, never touching each other."""
    wanted, out, start = max(1, round(share * length)), [], 0
    while wanted > 0 and start < length:
        start += math.floor(rng.expovariate(share / (mean * (1 - share))))
        width = min(1 + math.floor(rng.expovariate(1 / mean)), wanted)
        if start + width > length:
            break
        out.append((start, start + width))
        wanted -= width
        start += width + 1
    return out or [(0, 1)]


def blank_out(row: list[int], bounds: tuple[int, int], marker: int, rng: random.Random) -> list[int]:
    """The row with spans between the bounds replaced by one marker each."""
    first, last = bounds
    kept, done = row[:first], first
    for start, end in spans(last - first, 0.3, 2.0, rng):
        kept += [*row[done : first + start], marker]
        done = first + end
    return kept + row[done:]


def infill(tokenizer: PreTrainedTokenizerFast) -> Corrupt:
    """BART's denoising: each span of text becomes one <mask>, the target is the whole text."""
    padding, mask = tokenizer.pad_token_id, tokenizer.mask_token_id

    def corrupt(rows: list[list[int]], rng: random.Random) -> Batch:
        return as_batch([blank_out(row, (1, len(row) - 1), mask, rng) for row in rows], rows, padding)

    return corrupt


def sentinel_pair(
    row: list[int], sentinels: list[int], connectives: set[int], rng: random.Random
) -> tuple[list[int], list[int]]:
    """A text with spans replaced by sentinels, and the list of each sentinel with what it stands for.

    A connective outside the spans becomes one of its own every other time, as in `mask_tokens`.
    """
    body, kept, target, done = row[:-1], [], [], 0
    chosen = spans(len(body), 0.25, 1.7, rng)
    covered = {place for start, end in chosen for place in range(start, end)}
    free = [place for place, token in enumerate(body) if token in connectives and place not in covered]
    chosen += [(place, place + 1) for place in free if rng.random() < 0.5]
    for sentinel, (start, end) in zip(sentinels, sorted(chosen), strict=False):
        kept += [*body[done:start], sentinel]
        target += [sentinel, *body[start:end]]
        done = end
    return [*kept, *body[done:], row[-1]], [*target, row[-1]]


def span_corruption(tokenizer: PreTrainedTokenizerFast) -> Corrupt:
    """T5's objective; every other batch instead asks for the whole text, its spans blanked by the last sentinel.

    The targets of span corruption are short, and alone they do not teach so small a decoder to read the encoder in
    the few steps there are.
    """
    padding = tokenizer.pad_token_id
    vocabulary = tokenizer.get_vocab()
    sentinels, connectives = [vocabulary[f"<extra_id_{i}>"] for i in range(SENTINELS)], connective_ids(tokenizer)

    def corrupt(rows: list[list[int]], rng: random.Random) -> Batch:
        if rng.random() < 0.5:
            return as_batch([blank_out(row, (0, len(row) - 1), sentinels[-1], rng) for row in rows], rows, padding)
        pairs = [sentinel_pair(row, sentinels[:-1], connectives, rng) for row in rows]
        return as_batch([inputs for inputs, _ in pairs], [labels for _, labels in pairs], padding)

    return corrupt


CORRUPTIONS: dict[str, Callable[[PreTrainedTokenizerFast], Corrupt]] = {
    "deberta": mask_tokens,
    "roberta": mask_tokens,
    "bart": infill,
    "t5": span_corruption,
}
