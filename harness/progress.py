"""What a person sees while a run goes on: a progress bar on standard error, and at the end one honest line."""

from __future__ import annotations

from typing import Any

from harness.record import Record


def bar(name: str, *, shown: bool) -> Any:
    """A tqdm bar for optimizer steps; the loop sets its total. Silent where nobody looks (`progress=false`, no terminal)."""
    from tqdm import tqdm

    return tqdm(
        desc=name.rsplit(".", 1)[0], unit="step", disable=None if shown else True, dynamic_ncols=True, leave=False
    )


def line(done: Record, folder: str) -> str:
    """Method, task, backbone, score with metric, parameters, seconds, recipe, record: all that a number needs.

    `lora on demo/entailment, demo_deberta, seed 0: accuracy 87.30 on test (1,000 rows); 98,304 adapter + 16,770 head
    parameters; 31.2 s; recipe demo; results/runs/...`
    """
    science, identity = done.science, done.identity
    main, params = science["main"], science["params"]
    rows = science["predictions"][main["split"]]["rows"]
    words = [
        f"{identity['method']['name']} on {identity['task']['name']}, {identity['model']['name']}, seed {identity['seed']}: "
        f"{main['metric']} {main['score']:.2f} on {main['split']} ({rows:,} rows)",
        f"{params['adapter']:,} adapter + {params['head']:,} head parameters",
        f"{done.cost['seconds']:.1f} s",
        *([f"resumed at step {step}"] if (step := done.provenance.get("resumed_at")) else []),
        *done.remarks,
        folder,
    ]
    if done.recipe.get("name") not in ("none", "fallback"):
        words.insert(3, f"recipe {done.recipe['name']}")
    return "; ".join(words)
