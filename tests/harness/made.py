"""Synthetic records for the tests of the table: realistic identities, scores given; and a small backbone."""

from pathlib import Path

from harness import identity, record
from harness.record import DONE, Record


def made(method="lora", task="glue/mrpc", seed=0, score=80.0, *, state=DONE, rows=408, data="whole", **more) -> Record:
    """One record. `more`: fields of Record, `params`, `model`, `kind`, or keys of the identity's train section."""
    fields = {key: more.pop(key) for key in ("error", "remarks", "code") if key in more}
    adapter, model, kind = more.pop("params", 1000), more.pop("model", "minilm"), more.pop("kind", "classification")
    run = {
        "seed": seed,
        "model": {"name": model, "family": "bert"},
        "task": {"name": task, "kind": kind, "score": "accuracy", "reports": "validation"},
        "method": {"name": method, "_target_": "peft.LoraConfig", "target_modules": ["query", "value"]},
        "budget": {"name": "default", "max_adapter_params": None},
        "data": {"max_train_rows": None, "max_eval_rows": None},
        "train": {"learning_rate": 1e-3, "epochs": 3.0, **more},
        "content": {"data": identity.digest([data, task]), "weights": identity.digest(model), "device": "cpu"},
    }
    science = {
        "main": {"split": "validation", "metric": "accuracy", "score": score},
        "params": {"adapter": adapter, "active": adapter, "head": 770, "total": 22_000_000 + adapter},
        "predictions": {"validation": {"file": "predictions.validation.parquet", "sha256": "0" * 64, "rows": rows}},
    }
    return Record(identity.run_id(run), state, run, {}, {}, science if state == DONE else {}, **fields)


def seeds(method, scores, task="glue/mrpc", **more) -> list[Record]:
    """Records of seeds 0, 1, ... with these scores."""
    return [made(method, task, seed, score, **more) for seed, score in enumerate(scores)]


def store(root: Path, records) -> Path:
    """Write records as the store holds them."""
    for one in records:
        (root / one.id).mkdir(parents=True)
        record.write(root / one.id, one)
    return root


def fresh(one: Record) -> list[str]:
    """A double of provenance.stale: what differs is what the record's code says."""
    return list(one.code.get("differs", ()))


def small_classifier(kind, **more):
    """A classifier of four layers with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shape = {
        "num_hidden_layers": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 64,
    }
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **shape, **more))
