"""The contract battery: what holds for every method in conf/method on every architecture, whatever its paper says.

A new method is tested here as soon as its YAML and its row in methods.METHODS exist. Computation (gradients, caches,
padding) is in test_contract_computation.py, files and processes in test_contract_files.py.
"""

import copy
from types import SimpleNamespace

import peft
import pytest
import torch
from battery import CASES, LIMITS, each, limit, listed, trained
from tiny import logits, randomise, task_loss, train
from torch.testing import assert_close

from harness.optimizer import parameter_groups
from methods import hooks


@each
def test_only_adapter_and_head_train(case):
    model = case.attach()
    names = trained(model)
    assert names
    assert all(case.is_adapter(name) or ".modules_to_save." in name for name in names)
    for head in case.head:
        assert any(f".{head}.modules_to_save.default." in name for name in names), head


@each
def test_frozen_stays_frozen_and_trained_moves(case):
    model = randomise(case.attach(), 0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    train(model, [case.batch()], steps=2)
    moving = {name: parameter for name, parameter in trained(model).items() if name in before}  # a method may grow
    for name, parameter in model.named_parameters():
        if name not in trained(model):
            assert torch.equal(parameter, before[name]), name
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers() if name in buffers)
    moved = [name for name, parameter in moving.items() if not torch.equal(parameter, before[name])]
    for group in (case.is_adapter, *(lambda name, head=head: f".{head}." in name for head in case.head)):
        assert any(group(name) for name in moved) or not any(group(name) for name in moving)


@each
def test_every_adapter_tensor_gets_a_gradient(case):
    model = randomise(case.attach(), 0.1)
    inputs = case.batch()
    hooks.find(model).loss(model, inputs, task_loss).backward()
    assert [name for name, parameter in trained(model).items() if parameter.grad is None] == []


@each
def test_matrices_are_decayed_and_vectors_are_not(case):
    """Wherever a part stands: below a norm, or as the copy of one. Trainer spares T5's table of position biases too."""
    model = case.attach()
    groups = parameter_groups(model, hooks.find(model), SimpleNamespace(), 1.0)
    spared = {id(p) for group in groups if group.get("weight_decay") == 0.0 for p in group["params"]}
    for name, parameter in trained(model).items():
        if "relative_attention_bias" not in name:
            assert (id(parameter) in spared) == (parameter.dim() == 1), name


@each
def test_initialisation_follows_the_seed(case):
    first, again, other = (trained(case.attach(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    adapter = [name for name in first if case.is_adapter(name)]
    assert any(not torch.equal(first[name], other[name]) for name in adapter) == case.row.draws


@each
def test_at_the_start(case):
    model, inputs = case.attach(), case.batch()
    expected = logits(case.base(), inputs)
    if case.row.identity:
        assert_close(logits(model, inputs), expected, rtol=0, atol=1e-5 if case.kind == "generation" else 1e-6)
    else:
        assert not torch.allclose(logits(model, inputs), expected, atol=1e-4)


@each
def test_disabled_is_the_base(case):
    model, inputs = randomise(case.attach()), case.batch()
    changed = logits(model, inputs)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), logits(case.base(), inputs))
    assert torch.equal(logits(model, inputs), changed)
    assert flags == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert not torch.equal(changed, logits(case.base(), inputs))


@each
def test_two_adapters_do_not_touch(case):
    model, inputs = randomise(case.attach()), case.batch()
    expected, before = logits(model, inputs), trained(model).keys()
    if met := limit("a second adapter", case):
        with met.raised():
            model.add_adapter("other", case.config())
        return
    model.add_adapter("other", case.config())
    assert trained(model).keys() == before
    randomise(model, seed=8, adapter="other")
    assert torch.equal(logits(model, inputs), expected)
    model.set_adapter("other")
    other = logits(model, inputs)
    assert not torch.equal(other, expected)
    assert all(".other" in name for name in trained(model))
    model.set_adapter("default")
    assert torch.equal(logits(model, inputs), expected)
    model.delete_adapter("default")
    model.set_adapter("other")
    assert torch.equal(logits(model, inputs), other)
    assert not [name for name, _ in model.named_parameters() if ".default" in name]


@each
def test_merged_equals_unmerged(case):
    if met := limit("merging", case):
        with met.raised():
            randomise(case.attach()).merge_adapter()
        return
    model, inputs = randomise(case.attach().double()), case.batch()
    expected = logits(model, inputs)
    scale = expected.abs().max()
    model.merge_adapter()
    assert_close(logits(model, inputs) / scale, expected / scale, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    assert_close(logits(model, inputs) / scale, expected / scale, rtol=0, atol=1e-5)
    if met := limit("merging for good", case):
        with met.raised():
            model.merge_and_unload()
        return
    merged = model.merge_and_unload()
    assert_close(logits(merged, inputs) / scale, expected / scale, rtol=0, atol=1e-5)
    assert type(merged) is type(case.base())


@pytest.mark.parametrize("case", [case for case in CASES if case.ours and not limit("merging", case)], ids=str)
def test_merging_keeps_ties_and_names(case):
    merged = randomise(case.attach()).merge_and_unload()
    assert merged.state_dict().keys() == case.base().state_dict().keys()
    tied = [len({id(model.get_parameter(name)) for name in model.state_dict() if "embed_tokens" in name
                 or "shared" in name or "lm_head" in name}) for model in (merged, case.base())
            if case.family in ("bart", "t5")]  # fmt: skip
    assert len(set(tied)) <= 1


@each
def test_unload_gives_the_base_back(case):
    model, inputs = randomise(case.attach()), case.batch()
    if met := limit("merging for good", case):
        with met.raised():
            model.unload()
        return
    base, original = model.unload(), case.base()
    backbone = {name: tensor for name, tensor in original.state_dict().items() if name.split(".")[0] not in case.head}
    state = base.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in backbone.items())
    if case.ours:  # peft leaves the trained head
        assert state.keys() == original.state_dict().keys()
        assert torch.equal(logits(base, inputs), logits(original, inputs))
        assert [type(module) for module in base.modules()] == [type(module) for module in original.modules()]


@each
def test_deepcopy_is_independent(case):
    model, inputs = randomise(case.attach()), case.batch()
    expected = logits(model, inputs)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other, inputs), expected)
    randomise(other, seed=9)
    assert not torch.equal(logits(other, inputs), expected)
    assert torch.equal(logits(model, inputs), expected)
    with other.disable_adapter():
        assert torch.equal(logits(model, inputs), expected)


@each
def test_status_and_counts(case):
    model = case.attach()
    status = model.get_model_status()
    assert status.enabled is True
    assert status.active_adapters == ["default"]
    assert status.trainable_params == sum(parameter.numel() for parameter in trained(model).values())
    assert status.peft_types == {"default": case.config().peft_type.value}


@each
def test_counts_on_the_meta_device(case):
    """A budget is solved by counting there, without memory."""
    with torch.device("meta"):
        model = type(case.base())(case.base().config)
        model = peft.get_peft_model(model, case.config())
    assert {n: p.shape for n, p in trained(model).items()} == {n: p.shape for n, p in trained(case.attach()).items()}


def test_limits_are_counted():
    """Of 82 cases a test; a method added or a limit gone changes these numbers."""
    counted = {test: sum(limit(test, case) is not None for case in CASES) for test in {found.test for found in LIMITS}}
    assert len(CASES) == 82
    assert counted == {
        "merging": 32, "merging for good": 4, "a second adapter": 6, "reentrant checkpointing": 2,
    }  # fmt: skip
    assert list(listed())[-1].split() == ["44", "limits", "in", "all"]
