"""The authors' own AdaLoRA library on real data that is at hand, as a published table to judge `method=adalora` by.

    git clone https://github.com/QingruZhang/AdaLoRA DIR && git -C DIR checkout d10f5eb
    python scripts/rehearsal_adalora.py --authors DIR --model MINILM --data GLUE --seeds 0,1,2,3,4 -o authors.json
    python scripts/rehearsal_table.py authors.json -o results/published/rehearsal_adalora.toml
    python -m harness -m method=adalora model=minilm task=glue/mrpc seed=0,1,2,3,4 model.path=MINILM data.root=GLUE \\
        recipe_variant=rehearsal results.root=results/rehearsal results.keep_adapter=false threads=1
    python -m harness.table table=rehearsal_adalora --root results/rehearsal --as-made

Nothing of that library is in this project, and none of its files is changed. Its SVDLinear stands in for the linear
layers of transformers' BERT; its RankAllocator, its orthogonality penalty, and the AdamW and schedule of its fork of
transformers do the rest, in the order of its Trainer. Ours are the loop around them, the batches (the same rows in the
same order as our run of that seed has) and the evaluation. Every setting is read from our configuration
(conf/recipe/rehearsal.toml), so both sides have the same. Initial values and dropout are drawn independently.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
import types
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, trainer_utils
from transformers.utils import logging

from harness import compose, task
from harness.config import RunConfig
from harness.data import Encoded, collate, encode, epoch_batches
from harness.evaluate import evaluate
from harness.paths import CONF

WORDS = ("method=adalora", "model=minilm", "task=glue/mrpc", "recipe_variant=rehearsal")


def settings(model: Path, data: Path) -> RunConfig:
    """The configuration that our own run would have."""
    compose.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [*WORDS, f"model.path={model}", f"data.root={data}"]
        return compose.checked(hydra_compose("config", overrides=words))


def library(authors: Path) -> tuple[Any, Any]:
    """Their `loralib` and their fork's `optimization` module, from an unchanged checkout."""
    sys.path.insert(0, str(authors / "loralib"))
    import loralib

    # Their fork of transformers as a whole needs versions of 2021; this one module needs two names of it.
    name = "authors_fork"
    package, utils = types.ModuleType(name), types.ModuleType(f"{name}.utils")
    package.__path__, utils.logging = [], logging  # type: ignore[attr-defined]
    sys.modules |= {name: package, f"{name}.utils": utils, f"{name}.trainer_utils": trainer_utils}
    path = authors / "NLU/src/transformers/optimization.py"
    spec = importlib.util.spec_from_file_location(f"{name}.optimization", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: {path} is not there; --authors must be a checkout of QingruZhang/AdaLoRA")
    optimization = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(optimization)
    return loralib, optimization


def commit(authors: Path) -> str:
    """The checkout's commit; stops where a file of it was changed."""
    git = ["git", "-C", str(authors)]
    if subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout:
        raise SystemExit(f"error: files of {authors} differ from their commit; this needs the authors' code as it is")
    return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def model_with_triplets(config: RunConfig, loralib: Any) -> nn.Module:
    """The backbone with their SVDLinear in place of every targeted layer; those and the head are trained."""
    method = config.method
    model = AutoModelForSequenceClassification.from_pretrained(
        str(config.model.path), num_labels=2, dtype=torch.float32
    )
    for path, layer in list(model.named_modules()):
        if re.fullmatch(method["target_modules"], path):
            made = loralib.SVDLinear(
                layer.in_features, layer.out_features, r=method["init_rank"], lora_alpha=method["alpha"],
                lora_dropout=method["dropout"], merge_weights=False,
            )  # fmt: skip
            made.weight.data.copy_(layer.weight.data)
            made.bias.data.copy_(layer.bias.data)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, made)
    loralib.mark_only_lora_as_trainable(model)
    for name, parameter in model.named_parameters():
        if any(part in config.model.head_modules for part in name.split(".")):
            parameter.requires_grad = True
    return model


def optimizer(model: nn.Module, config: RunConfig, optimization: Any, steps: int) -> tuple[Any, Any]:
    """Their AdamW, biases and LayerNorms without decay, and their linear schedule."""
    train = config.train
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if "bias" not in name], "weight_decay": train.weight_decay},
        {"params": [p for name, p in named if "bias" in name], "weight_decay": 0.0},
    ]
    betas = (train.adam_beta1, train.adam_beta2)
    adamw = optimization.AdamW(groups, lr=train.learning_rate, betas=betas, eps=train.adam_epsilon)
    warmup = math.ceil(train.warmup_ratio * steps)
    return adamw, optimization.get_linear_schedule_with_warmup(adamw, warmup, steps)


def train(model: nn.Module, config: RunConfig, made: tuple[Any, Any], encoded: Encoded, seed: int) -> int:
    """The order of their Trainer: loss + penalty, clip, AdamW, schedule, allocator with a 0-based step, zero."""
    (loralib, optimization), method = made, config.method
    epochs = range(int(config.train.epochs))
    steps = math.ceil(len(encoded) / config.train.batch_size) * len(epochs)
    adamw, schedule = optimizer(model, config, optimization, steps)
    allocator = loralib.RankAllocator(
        model, lora_r=method["init_rank"], target_rank=method["target_rank"], init_warmup=method["warmup_steps"],
        final_warmup=method["final_steps"], mask_interval=method["interval_steps"], beta1=method["beta1"],
        beta2=method["beta2"], total_step=steps,
    )  # fmt: skip
    size, buckets = config.train.batch_size, config.data.buckets
    order = [epoch_batches(encoded.lengths, size, seed=seed, epoch=epoch, buckets=buckets) for epoch in epochs]
    model.train()
    for step, rows in enumerate(chain.from_iterable(order)):
        batch = collate(encoded, rows)
        labels = batch.pop("labels")
        loss: torch.Tensor = nn.functional.cross_entropy(model(**batch).logits, labels)
        penalty: torch.Tensor = loralib.compute_orth_regu(model, method["orthogonality_weight"])
        (loss + penalty).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm or math.inf)
        adamw.step()
        schedule.step()
        allocator.update_and_mask(model, step)
        model.zero_grad()
    return steps


def one(config: RunConfig, rows: task.Task, made: tuple[Any, Any], seed: int) -> dict[str, Any]:
    """One seed, trained and scored."""
    begun = time.perf_counter()
    torch.manual_seed(seed)
    model, tokenizer = model_with_triplets(config, made[0]), AutoTokenizer.from_pretrained(config.model.path)
    encoded = {name: encode(rows.splits[name], tokenizer, kind=rows.kind, **config.data.lengths)
               for name in ("train", "validation")}  # fmt: skip
    steps = train(model, config, made, encoded["train"], seed)
    found = evaluate(
        model, encoded["validation"], metric=rows.metric, batch_size=config.data.eval_batch_size, device="cpu"
    )
    ranks = {name: int(p.count_nonzero()) for name, p in model.named_parameters() if name.endswith("lora_E")}
    layers: list[Any] = [model.get_submodule(name.removesuffix(".lora_E")) for name in ranks]
    sizes = [layer.weight.shape[0] + layer.weight.shape[1] + 1 for layer in layers]
    return {
        "seed": seed, "scores": found.scores, "steps": steps, "ranks": ranks,
        "active_params": sum(rank * size for rank, size in zip(ranks.values(), sizes, strict=True)),
        "seconds": round(time.perf_counter() - begun, 1), "predictions": found.predictions["prediction"],
    }  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """All seeds that the output file lacks, one after the other; the file is whole after each."""
    config, made = settings(options.model, options.data), library(options.authors)
    rows = task.load(config.task, config.data.root)
    kept = json.loads(options.output.read_text()) if options.output.is_file() else {"runs": []}
    kept |= {"commit": commit(options.authors), "torch": torch.__version__, "data": rows.fingerprint}
    for seed in options.seeds:
        if seed not in [found["seed"] for found in kept["runs"]]:
            kept["runs"].append(found := one(config, rows, made, seed))
            options.output.write_text(json.dumps(kept, indent=1))
            print(
                f"seed {seed}: {found['scores']}, {sum(found['ranks'].values())} triplets, {found['seconds']} s",
                flush=True,
            )


def main() -> None:
    """Train and score the authors' code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--authors", type=Path, required=True, help="a checkout of QingruZhang/AdaLoRA, unchanged")
    parser.add_argument("--model", type=Path, required=True, help="all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, required=True, help="GLUE in its official layout")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=list(range(5)))
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, help="JSON; seeds that it holds are not run again"
    )
    run(parser.parse_args())


if __name__ == "__main__":
    main()
