"""The same run by peft's documented way, transformers.Trainer: a score to stand beside ours.

    python scripts/trainer_reference.py task=glue/mrpc model=minilm model.path=DIR data.root=DIR seed=0

Words are those of `python -m harness`. Backbone, LoRA configuration, tokens, batch size, rate, decay, warm-up, clipping
and epochs are that run's; the sampler, and so the order and the padding of batches, is Trainer's own. One device, no
record: the score is printed, of all rows of the split that reports.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import peft
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

from harness import compose, directory, metrics, model, task
from harness.data import Encoded
from harness.tokens import Tokens


def rows_of(encoded: Encoded) -> datasets.Dataset:
    """Token ids and targets as Trainer's collator takes them."""
    columns: dict[str, Any] = {
        "input_ids": [np.asarray(row).tolist() for row in encoded.input_ids],
        "labels": list(encoded.targets),
    }
    if encoded.token_type_ids is not None:
        columns["token_type_ids"] = [np.asarray(row).tolist() for row in encoded.token_type_ids]
    return datasets.Dataset.from_dict(columns)


def main() -> None:
    """Train and evaluate once; print one line."""
    config = compose.composed(sys.argv[1:])
    spec = replace(config.model, attention="transformers")
    rows, at, settings = task.load(config.task, config.data.root), directory.locate(spec), config.train
    set_seed(config.seed)
    backbone, tokenizer = model.load(spec, at, rows, seed=config.seed)
    net = peft.get_peft_model(backbone, model.method_config(config.method, spec, rows.kind, backbone))
    encode = Tokens(tokenizer).encode
    splits = {name: rows_of(encode(rows.splits[name], kind=rows.kind, **config.data.lengths))
              for name in ("train", rows.reports)}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=settings.batch_size, num_train_epochs=settings.epochs, seed=config.seed,
            learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, warmup_steps=settings.warmup_ratio,
            max_grad_norm=settings.clip_norm or 0.0, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            net, arguments, data_collator=DataCollatorWithPadding(tokenizer), train_dataset=splits["train"]
        )
        trainer.train()
        said = trainer.predict(splits[rows.reports])
    found = said.predictions[0] if isinstance(said.predictions, tuple) else said.predictions
    guesses = found[:, 0] if rows.kind == "regression" else np.argmax(found, axis=-1)
    score = metrics.compute(rows.metric, guesses.tolist(), np.asarray(said.label_ids).tolist())[rows.score]
    print(f"Trainer + peft, {config.method['name']} on {config.task.name}, {spec.name}, seed {config.seed}: {rows.score} "
          f"{score:.2f} on {rows.reports} ({len(guesses):,} rows); {trainer.state.global_step} updates")  # fmt: skip


if __name__ == "__main__":
    main()
