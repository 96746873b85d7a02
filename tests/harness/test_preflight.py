"""Every fault that preflight looks for, planted in a run on the embedded backbone, is caught, and by the right check."""

from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from torch import nn

from harness import budget, checkpoint, compose, frozen, model, preflight, probe, run, schema
from harness.errors import ConfigError
from harness.preflight import CHECKS
from harness.tokens import Tokens

SHORT = ["data.max_train_rows=64", "data.max_eval_rows=32"]


PROMPT = {"name": "prompt", "_target_": "peft.PromptTuningConfig", "num_virtual_tokens": 4}


def prepared(*words, yaml=None):
    """All that a run has before its first step: configuration, model, rows, and what makes a Probe of them."""
    plan = run.plan(compose.composed([*SHORT, *words]))
    config, rows = plan.config, plan.task
    config.method = yaml or config.method
    backbone, tokenizer = model.load(config.model, plan.directory, rows, seed=0, quantization=config.quantization)
    bare = probe.shared(backbone, everything=True)
    method = model.method_config(config.method, config.model, rows.kind, backbone)
    tuned = model.attach(backbone, method, seed=0)
    tokens = Tokens(tokenizer)
    found = SimpleNamespace(
        config=config, rows=rows, tuned=tuned, tokenizer=tokenizer,
        splits={split: tokens.encode(rows.splits[split], kind=rows.kind, **config.data.lengths)
                for split in ("train", rows.selects, rows.reports)},
        attach=lambda seed: model.attach(probe.shared(bare, everything=True), method, seed=seed),
        counted=lambda: budget.by_shapes(config.method, config.model, plan.directory, rows),
    )  # fmt: skip
    found.probe = lambda: probe.Probe(found.config, found.rows, found.splits, found.tuned, found.attach,
                                          found.counted, tokenizer)  # fmt: skip
    return found


def faults(there, name):
    try:
        return CHECKS[name](there.probe())
    except ConfigError as error:  # one that switching the check off would not help
        return [str(error)]


def unseeded(there):
    attach = there.attach
    there.attach = lambda seed: attach(torch.seed())


def constant(there):
    attach = there.attach
    there.attach = lambda seed: attach(0)


def undeclared(there):
    there.config.method.pop("declares")


def unused(there):
    layer = next(m for m in there.tuned.modules() if hasattr(m, "lora_A"))
    layer.forward = layer.base_layer.forward


def thawed(there):
    there.tuned.get_base_model().get_input_embeddings().weight.requires_grad_(True)


def pooler_frozen(there):
    for name, parameter in there.tuned.named_parameters():
        if "pooler.modules_to_save" in name:
            parameter.requires_grad_(False)


def head_unsaved(there):
    base = there.tuned.get_base_model()
    base.pooler = base.pooler.modules_to_save["default"]


def adapter_unsaved(there):
    there.tuned.base_model.model.register_parameter("extra", nn.Parameter(torch.ones(1)))
    base = there.tuned.base_model.model
    forward = type(base).forward

    class Scaled(type(base)):
        def forward(self, *arguments, **options):
            said = forward(self, *arguments, **options)
            said.logits = said.logits * self.extra
            return said

    base.__class__ = Scaled


def too_short(there):
    there.config.train.max_steps = 3


def never_moving(there):
    there.config.train.max_steps = 8
    there.tuned.base_model.settings.interval_steps = 100
    there.tuned.base_model.settings.final_steps = 1


def penalised_logits(there):
    there.config.method["declares"] = []


def penalty_leaves_something(there):
    tuner = there.tuned.base_model
    penalty = type(tuner).penalty

    class Leaving(type(tuner)):
        def penalty(self):
            with torch.no_grad():
                next(p for p in self.parameters() if p.requires_grad).add_(1.0)
            return penalty(self)

    tuner.__class__ = Leaving


def wrong_weights(there):
    there.tuned.get_base_model().get_input_embeddings().to(torch.float16)


def wrong_adapter(there):
    for parameter in there.tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float16)


def untied(there):
    base = there.tuned.get_base_model()
    base.lm_head.weight = nn.Parameter(base.lm_head.weight.detach().clone(), requires_grad=False)


def doubled(there):
    there.tuned.base_model.model.register_parameter("extra_lora_", nn.Parameter(torch.ones(7)))


def above_budget(there):
    there.config.budget.max_adapter_params = 10


def more_labels(there):
    there.rows = SimpleNamespace(**(vars(there.rows) | {"labels": [*there.rows.labels, "another"]}))


def wrong_target(there):
    there.splits["train"].targets[0] = 9


def wrong_metric(there):
    there.rows = SimpleNamespace(**(vars(there.rows) | {"metric": "matthews", "score": "matthews"}))
    there.splits[there.rows.reports].targets[:] = [float("nan")] * 3 + there.splits[there.rows.reports].targets[3:]


def cut_short(there):
    there.config.preflight.max_truncated_percent = 0
    object.__setattr__(there.splits["train"], "truncated_rows", 5)


def other_words(there):
    """The tokenizer of another embedded backbone: fewer words, other ids of padding and ends."""
    for name, value in {"pad_token_id": 5, "eos_token_id": 7}.items():
        setattr(there.tuned.get_base_model().config, name, value)


def few_words(there):
    base = there.tuned.get_base_model()
    base.set_input_embeddings(nn.Embedding(4000, 128))


def many_words(there):
    base = there.tuned.get_base_model()
    base.set_input_embeddings(nn.Embedding(40, 128))


def unknown_words(there):
    for ids in there.splits["train"].input_ids[::3] + there.splits["train"].input_ids[1::3]:
        ids[:] = there.tokenizer.unk_token_id


def too_long(there):
    vars(there.splits["train"])["lengths"] = np.array([9, 200])


def written_too_long(there):
    there.splits["train"].targets[0] = np.ones(129, dtype=np.int64)
    there.config.generation.max_new_tokens = 129


def mask_ignored(there):
    base = there.tuned.base_model.model
    forward = type(base).forward

    class Blind(type(base)):
        def forward(self, input_ids=None, attention_mask=None, **options):
            return forward(self, input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **options)

    base.__class__ = Blind


PLANTED = [  # the check, the fault, the run, what the message says
    ("seed", unseeded, [], "attached twice with the same seed"),
    ("seed", constant, [], "do not depend on the seed"),
    ("seed", undeclared, ["method=ia3"], "method.declares=[no_draws]"),
    ("gradients", unused, [], "never get one"),
    ("gradients", thawed, [], "belong to the backbone"),
    ("head", pooler_frozen, [], "pooler"),
    ("head", head_unsaved, [], "would not be saved"),
    ("saved", adapter_unsaved, [], "not restored: base_model.model.extra"),
    ("saved", head_unsaved, [], "pooler"),
    ("schedule", too_short, ["method=adalora", "method.warmup_steps=2", "method.final_steps=2"], "no steps to prune in"),
    ("schedule", never_moving, ["method=adalora"], "never moves"),
    ("penalty", penalised_logits, ["method=adalora_peft"], "add the penalty in training only"),
    ("penalty", penalty_leaves_something, ["method=adalora"], "changes the logits"),
    ("dtypes", wrong_weights, [], "embeddings"),
    ("dtypes", wrong_adapter, [], "neither float32 nor model.dtype"),
    ("ties", untied, ["task=demo/summarization", "model=demo_bart"], "were one tensor and are two now"),
    ("parameters", doubled, [], "by its shapes"),
    ("parameters", above_budget, [], "above budget.max_adapter_params=10"),
    ("labels", more_labels, [], "the head has 2 logits and the task 3"),
    ("labels", wrong_target, [], "has targets 9"),
    ("truncation", cut_short, [], "are cut at data.max_length_tokens"),
    ("tokenizer", other_words, [], "pad_token_id 0 where the backbone has 5, eos_token_id"),
    ("tokenizer", few_words, [], "words, and the backbone 4,000 embeddings"),
    ("tokenizer", many_words, [], "and the backbone 40 embeddings"),
    ("tokenizer", unknown_words, [], "are unknown to the tokenizer"),
    ("positions", too_long, ["model=demo_roberta"], "a train row has 200 tokens"),
    ("positions", too_long, ["task=demo/summarization", "model=demo_bart"], "the backbone 128 positions; data.max_length_tokens"),
    ("positions", written_too_long, ["task=demo/summarization", "model=demo_bart"], "a train target has 129 tokens"),
    ("padding", mask_ignored, [], "padding tokens change a logit"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "plant", "words", "says"), PLANTED, ids=[f"{n}-{p.__name__}" for n, p, _, _ in PLANTED]
)
def test_a_planted_fault_is_caught(name, plant, words, says):
    there = prepared(*words)
    assert faults(there, name) == []
    plant(there)
    found = faults(there, name)
    assert found and says in found[0], found


def test_every_check_has_a_fault_planted():
    assert {name for name, *_ in PLANTED} == set(CHECKS) == set(schema.CHECKS)


@pytest.mark.parametrize(
    "words",
    [["method=increlora"], ["method=propetl", "task=demo/summarization", "model=demo_t5"], ["method=full", "model=demo_roberta"]],
    ids=str,
)  # fmt: skip
def test_a_sound_run_passes_and_is_not_touched(words):
    there = prepared(*words, "train.max_steps=60")
    state = {name: tensor.clone() for name, tensor in there.tuned.state_dict().items()}
    flags = {name: (p.requires_grad, p.grad) for name, p in there.tuned.named_parameters()}
    modes, drawn = [m.training for m in there.tuned.modules()], checkpoint.generators()
    known = sorted(vars(there.tuned.base_model))
    remarks, told = preflight.check(there.config, there.probe)
    assert told["passed"] == list(CHECKS) and remarks == []
    assert all(torch.equal(tensor, state[name]) for name, tensor in there.tuned.state_dict().items())
    assert flags == {name: (p.requires_grad, p.grad) for name, p in there.tuned.named_parameters()}
    assert modes == [m.training for m in there.tuned.modules()]
    assert str(drawn) == str(checkpoint.generators())
    assert known == sorted(vars(there.tuned.base_model))


def test_a_prompt_of_peft_beside_the_backbone_passes():
    there = prepared(yaml=PROMPT)
    assert preflight.check(there.config, there.probe)[1]["passed"] == list(CHECKS)
    assert not any("prompt" in name for name in frozen.sums(there.tuned))


def test_a_run_with_preflight_off_is_bit_identical(tmp_path):
    """With dropout and a method that prunes: whatever preflight drew or stepped would show."""
    words = [*SHORT, "method=adalora", "method.dropout=0.1", "train.max_steps=5", "method.warmup_steps=1", "threads=1",
             "method.final_steps=2", "method.interval_steps=1",
             "progress=false", "wandb.mode=disabled"]  # fmt: skip
    told = {}
    for switch in ("true", "false"):
        plan = run.plan(compose.composed([*words, f"preflight.enabled={switch}", f"results.root={tmp_path / switch}"]))
        told[switch] = run.run(plan)
    on, off = told["true"], told["false"]
    assert on.provenance["preflight"]["passed"] == list(CHECKS) and off.provenance["preflight"]["passed"] == []
    assert on.science == off.science and on.id == off.id


def test_switches():
    there = prepared("preflight.enabled=false")
    assert preflight.check(there.config, there.probe)[1]["passed"] == []
    there.config.preflight.enabled = True
    there.config.preflight.skip = [*CHECKS.keys() - {"truncation", "labels"}]
    cut_short(there)
    wrong_target(there)
    with pytest.raises(ConfigError, match=r"preflight, labels: (.|\n)*preflight, truncation: .*skip=\[truncation\]"):
        preflight.check(there.config, there.probe)


def test_a_check_that_cannot_be_made_is_no_pass():
    there = prepared()
    there.attach = lambda seed: [][0]
    there.config.preflight.skip = [*CHECKS.keys() - {"seed"}]
    with pytest.raises(ConfigError, match=r"seed: cannot be carried out .IndexError"):
        preflight.check(there.config, there.probe)


def test_a_moved_backbone_fails_the_run():
    there = prepared()
    before = frozen.sums(there.tuned)
    assert frozen.check(there.tuned, before, {}) == len(before) > 50
    weight = there.tuned.get_base_model().get_input_embeddings().weight
    weight.data[5, 3] = torch.nextafter(weight.data[5, 3], torch.tensor(9.0))
    with pytest.raises(frozen.Changed, match=r"changed 1 frozen weights .*embeddings"):
        frozen.check(there.tuned, before, {"declares": []})
    assert frozen.check(there.tuned, before, {"declares": ["moves_backbone"]}) is None
    assert frozen.Changed.state == "FAILED"
    assert isinstance(there.tuned, peft.PeftModel)
