"""Pre-training of the demo backbones: masked language modelling, denoising and span corruption.

One plain loop serves all four families; they differ in how a batch is corrupted. Dropout is off while pre-training,
since every document is seen about once; the saved configurations keep their family's dropout for fine-tuning.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from demo_corpus import documents
from demo_corruption import CORRUPTIONS, Batch, Corrupt
from demo_models import build_model
from transformers import Adafactor, PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to pre-train one backbone.

    With `scaled` the rate is relative to the size of each parameter (Adafactor, which T5 was pre-trained with): T5's
    embeddings start ten times as large as its matrices, and one absolute rate for both learns three times slower.
    """

    steps: int
    learning_rate: float
    scaled: bool = False
    batch_size: int = 64
    warmup: float = 0.05
    weight_decay: float = 0.01


RECIPES: dict[str, Recipe] = {
    "deberta": Recipe(6000, 1.5e-3),
    "roberta": Recipe(6000, 1.5e-3),
    "bart": Recipe(5000, 1.5e-3),
    "t5": Recipe(5000, 3e-2, scaled=True),
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


def optimizer_of(model: PreTrainedModel, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, or Adafactor with rates relative to the parameters' size."""
    if recipe.scaled:
        return Adafactor(model.parameters(), lr=recipe.learning_rate, scale_parameter=True, relative_step=False)
    return torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )


def pretrain(
    name: str, tokenizer: PreTrainedTokenizerFast, seed: int, report: Callable[[str], None] = print
) -> tuple[PreTrainedModel, float]:
    """Pre-train one backbone from scratch; returns it with its held-out loss."""
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    model = without_dropout(build_model(name, len(tokenizer)))
    corrupt = CORRUPTIONS[name](tokenizer)
    stream = batches(tokenizer, corrupt, recipe.batch_size, seed, seed)
    optimizer = optimizer_of(model, recipe)
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
