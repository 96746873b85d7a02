"""Pre-training of the demo backbones: masked language modelling, denoising and span corruption.

One plain loop serves all four families; they differ in how a batch is corrupted. Dropout is off while pre-training,
since every document is seen about once; the saved configurations keep their family's dropout for fine-tuning.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from demo_corpus import CONNECTIVES, documents
from demo_models import build_model
from demo_tokenizers import SENTINELS
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

Batch = dict[str, Tensor]
Corrupt = Callable[[list[list[int]], random.Random], Batch]
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to pre-train one backbone."""

    steps: int
    learning_rate: float
    batch_size: int = 64
    warmup: float = 0.05
    weight_decay: float = 0.01


RECIPES: dict[str, Recipe] = {
    "deberta": Recipe(6000, 1.5e-3),
    "roberta": Recipe(6000, 1.5e-3),
    "bart": Recipe(5000, 1.5e-3),
    "t5": Recipe(5000, 1e-3),
}


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[list[str]], rng: random.Random) -> list[list[int]]:
    """Token ids of documents; most are encoded as a pair of segments, as two-sentence tasks will be."""
    pairs = []
    for sentences in texts:
        cut = rng.randrange(1, len(sentences)) if len(sentences) > 1 and rng.random() < 0.7 else 0
        whole = " ".join(sentences)
        pairs.append((" ".join(sentences[:cut]), " ".join(sentences[cut:])) if cut else whole)
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(pairs)]


def batches(
    tokenizer: PreTrainedTokenizerFast, corrupt: Corrupt, batch_size: int, corpus_seed: int, seed: int
) -> Iterator[Batch]:
    """Endless batches of similarly long documents; sorting within a large chunk keeps padding low."""
    rng = random.Random(seed)
    stream = documents(corpus_seed)
    while True:
        chunk = encode(tokenizer, list(islice(stream, batch_size * 64)), rng)
        chunk.sort(key=len)
        groups = [chunk[start : start + batch_size] for start in range(0, len(chunk), batch_size)]
        rng.shuffle(groups)
        for group in groups:
            yield corrupt(group, rng)


def pad(rows: list[list[int]], value: int) -> Tensor:
    """A rectangular tensor of the rows."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def as_batch(inputs: list[list[int]], labels: list[list[int]], padding: int) -> Batch:
    """Padded tensors of inputs and labels."""
    ids = pad(inputs, padding)
    return {"input_ids": ids, "attention_mask": (ids != padding).long(), "labels": pad(labels, IGNORED)}


def mask_tokens(tokenizer: PreTrainedTokenizerFast) -> Corrupt:
    """Masked language modelling as in BERT; never of punctuation, and of a connective every other time.

    A connective is the only word that tells how two clauses relate, so masking it often is what makes the model
    compare them.
    """
    fixed = set(tokenizer.all_special_ids) | set(tokenizer(".,", add_special_tokens=False)["input_ids"])
    words = [f" {word}" for choice in CONNECTIVES.values() for word in choice]
    connectives = {tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words}
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


def sentinel_pair(row: list[int], sentinels: list[int], rng: random.Random) -> tuple[list[int], list[int]]:
    """A text with spans replaced by sentinels, and the list of each sentinel with what it stands for."""
    body, kept, target, done = row[:-1], [], [], 0
    for sentinel, (start, end) in zip(sentinels, spans(len(row) - 1, 0.25, 1.7, rng), strict=False):
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
    sentinels = [vocabulary[f"<extra_id_{index}>"] for index in range(SENTINELS)]

    def corrupt(rows: list[list[int]], rng: random.Random) -> Batch:
        if rng.random() < 0.5:
            return as_batch([blank_out(row, (0, len(row) - 1), sentinels[-1], rng) for row in rows], rows, padding)
        pairs = [sentinel_pair(row, sentinels[:-1], rng) for row in rows]
        return as_batch([inputs for inputs, _ in pairs], [labels for _, labels in pairs], padding)

    return corrupt


CORRUPTIONS: dict[str, Callable[[PreTrainedTokenizerFast], Corrupt]] = {
    "deberta": mask_tokens,
    "roberta": mask_tokens,
    "bart": infill,
    "t5": span_corruption,
}


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, stream: Iterator[Batch], count: int = 30) -> float:
    """Mean loss over `count` batches of documents from another corpus seed."""
    model.eval()
    losses = [float(model(**batch).loss) for batch in islice(stream, count)]
    model.train()
    return sum(losses) / len(losses)


def schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear decay to zero."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    return min((step + 1) / warmup, (recipe.steps - step) / (recipe.steps - warmup))


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Switch dropout off in the modules; the configuration, which is what gets saved, keeps its rates."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            vars(module)["dropout"] = 0.0
    return model


def pretrain(
    name: str, tokenizer: PreTrainedTokenizerFast, seed: int, report: Callable[[str], None] = print
) -> tuple[PreTrainedModel, float]:
    """Pre-train one backbone from scratch; returns it with its held-out loss."""
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    model = without_dropout(build_model(name, len(tokenizer)))
    corrupt = CORRUPTIONS[name](tokenizer)
    stream = batches(tokenizer, corrupt, recipe.batch_size, seed, seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, recipe))
    started = time.monotonic()
    model.train()
    for step, batch in enumerate(islice(stream, recipe.steps)):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        if (step + 1) % 250 == 0:
            report(f"{name} step {step + 1}/{recipe.steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s")
    fresh = batches(tokenizer, corrupt, recipe.batch_size, seed + 1, seed + 1)
    return model, held_out_loss(model, fresh)
