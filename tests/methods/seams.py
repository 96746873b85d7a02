"""What the seam tests share: small forms, attaching, and the life of an adapter in the hands of peft's users."""

import copy

import peft
import pytest
import torch
from tiny import KINDS, batch, build, logits, randomise, sites, task_loss
from torch import nn
from torch.testing import assert_close

from methods import sites as places
from methods.hooks import find

each = pytest.mark.parametrize(("family", "kind"), KINDS)


def named(model, site):
    return places.find(model.config.model_type, site, [name for name, _ in model.named_modules()])


class Bottleneck(nn.Module):
    def __init__(self, width, rank=4, dropout=0.0):
        super().__init__()
        self.down, self.up, self.dropout = nn.Linear(width, rank), nn.Linear(rank, width), nn.Dropout(dropout)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states):
        return self.up(self.dropout(torch.relu(self.down(states))))


class LowRank(nn.Module):
    def __init__(self, layer, rank=2):
        super().__init__()
        self.a, self.b = nn.Linear(layer.in_features, rank, False), nn.Linear(rank, layer.out_features, False)
        nn.init.zeros_(self.b.weight)

    def forward(self, states):
        return self.b(self.a(states))

    def delta(self):
        return self.b.weight @ self.a.weight


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.value = nn.Parameter(torch.ones(width))

    def forward(self, states):
        return states * self.value


class Gated(nn.Module):
    def __init__(self, form, width):
        super().__init__()
        self.form, self.gate = form, nn.Linear(width, 1)

    def forward(self, states):
        return torch.sigmoid(self.gate(states)) * self.form(states)


def attach(config_cls, family, kind, **fields):
    head = sites(family)["head_modules"] if kind == "classification" else None
    task = "SEQ_CLS" if kind == "classification" else "SEQ_2_SEQ_LM"
    torch.manual_seed(0)
    return peft.get_peft_model(build(family, kind), config_cls(task_type=task, modules_to_save=head, **fields)).eval()


def check_life(model, family, kind, tmp_path):
    """Disable, copy, save, reload, checkpoint, unload: what peft's users do with an adapter."""
    inputs = batch(family, kind)
    expected = logits(randomise(model, 0.5), inputs)
    base = logits(build(family, kind), inputs)
    assert not torch.allclose(expected, base)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), base)
    assert torch.equal(logits(copy.deepcopy(model), inputs), expected)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build(family, kind), tmp_path)
    assert torch.equal(logits(again, inputs), expected)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        find(model).loss(model.train(), inputs, task_loss).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    model.gradient_checkpointing_disable()
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, rtol=0, atol=1e-5 * max(1.0, gradient.abs().max().item()))
    if kind == "generation":
        asked = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        options = {"max_new_tokens": 5, "min_new_tokens": 5, "num_beams": 2, "do_sample": False}
        answers = [model.eval().generate(**asked, **options, use_cache=use) for use in (True, False)]
        assert torch.equal(*answers)
    assert torch.equal(logits(model.unload(), inputs), base)
