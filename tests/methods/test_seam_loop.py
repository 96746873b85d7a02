"""The shapes of methods to come in the harness's own loop, and (`-m slow`) in whole runs: no change to either.

The methods are those of test_seam.py and test_seam_places.py; `method._target_` is all that a run needs to know.
"""

from dataclasses import replace

import pytest
import torch
from seams import attach
from specs import composed
from test_contract_resume import SETTINGS, rows
from test_seam import SeamCompositeConfig, SeamConsistencyConfig, SeamPhasesConfig
from test_seam_places import SeamIntrinsicConfig, SeamPromptConfig, SeamSideConfig
from tiny import Case, batch, logits, randomise

from harness import run
from harness.train import train
from methods.hooks import find

SHAPES = {
    "consistency": SeamConsistencyConfig, "composite": SeamCompositeConfig, "phases": SeamPhasesConfig,
    "side": SeamSideConfig, "prompt": SeamPromptConfig, "intrinsic": SeamIntrinsicConfig,
}  # fmt: skip
KINDS = [("deberta", "classification"), ("roberta", "classification"), ("bart", "generation"), ("t5", "generation")]


@pytest.mark.parametrize(("family", "kind"), KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_in_the_loop(shape, family, kind):
    model = randomise(attach(SHAPES[shape], family, kind), 0.1)
    adapter = {name: p.detach().clone() for name, p in model.base_model.adapter().named_parameters()}
    before, scores = logits(model, batch(family, kind)), iter([10.0, 20.0, 30.0, 40.0])
    settings = replace(SETTINGS, max_steps=8, epochs=2, evaluate_every_epochs=0.5, accumulation_steps=2)
    outcome = train(
        model, rows(Case("head", family, kind)), settings, seed=1, device="cpu", buckets=False, main="accuracy",
        validate=lambda: {"accuracy": next(scores)},
    )  # fmt: skip
    assert len(outcome.losses) == outcome.steps == 8
    assert torch.tensor(outcome.losses).isfinite().all()
    assert outcome.best["accuracy"] == 40.0
    assert not torch.equal(logits(model, batch(family, kind)), before)
    moved = [not torch.equal(p, adapter[name]) for name, p in model.base_model.adapter().named_parameters()]
    assert all(moved)
    if shape == "phases":
        start, middle, end = model.base_model.seen
        assert all(torch.equal(start[name], middle[name]) == (".up." in name) for name in start)
        assert all(torch.equal(middle[name], end[name]) == (".down." in name) for name in start)
    assert (getattr(find(model), "forwards", 0) == 2 * 2 * 8) == (shape == "consistency")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["demo_deberta", "demo_roberta", "demo_bart", "demo_t5"])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_a_run(shape, backbone, tmp_path):
    target = f"{SHAPES[shape].__module__}.{SHAPES[shape].__name__}"
    words = [f"model={backbone}", "method=head", "device=cpu", "progress=false", f"results.root={tmp_path}"]
    words += ["data.max_train_rows=64", "data.max_eval_rows=16", "train.max_steps=6"]
    config = composed(*words)  # the command line takes methods of this package and of peft's alone
    config = replace(config, method={"name": shape, "_target_": target})
    made = run.run(run.plan(config))
    assert made.state == "DONE"
    assert made.science["steps"] == 6 and made.science["params"]["adapter"] > 0
    assert run.run(run.plan(config)).id == made.id
