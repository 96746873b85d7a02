"""Full fine-tuning as selection is full fine-tuning."""

import copy

import peft
import pytest
import torch
from tiny import FAMILIES, KINDS, batch, build, sites, task_loss

from methods.selective.full import FullConfig


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_three_steps_equal_plain_training(family, kind):
    """The oracle: torch on the bare model, every parameter trained, ties included."""
    inputs = batch(family, kind)
    head = sites(family)["head_modules"] if kind == "classification" else None
    plain, results = build(family, kind), []
    task = "SEQ_CLS" if kind == "classification" else "SEQ_2_SEQ_LM"
    model = peft.get_peft_model(copy.deepcopy(plain), FullConfig(task_type=task, modules_to_save=head))
    for each in (plain, model):
        each.train()
        optimizer = torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            loss = task_loss(each(**{k: v for k, v in inputs.items() if k != "labels"}).logits, inputs["labels"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(loss)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-6)
    merged = model.merge_and_unload().state_dict()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_trained(family):
    plain = build(family)
    model = peft.get_peft_model(
        build(family), FullConfig(task_type="SEQ_CLS", modules_to_save=sites(family)["head_modules"])
    )
    assert model.get_nb_trainable_parameters()[0] == sum(parameter.numel() for parameter in plain.parameters())
