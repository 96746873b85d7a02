"""Whole trainings with PROPETL, in float64: the loop's own optimizer and groups against weights composed by hand.

The second implementation knows no mask, prototype or hook of ours: it sorts scores, multiplies, puts the products into a
plain Pfeiffer adapter, prefix or weight of the backbone (each tested against other libraries' numbers elsewhere), and
moves every value with an AdamW written out.
"""

import math
import types

import peft
import pytest
import torch
from tiny import batch, build, sites, task_loss
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close
from transformers.models.t5.modeling_t5 import T5LayerNorm

from harness.optimizer import build as optimizer_of
from methods import hooks
from methods.additive.pfeiffer import PfeifferConfig
from methods.hybrid.propetl import PropetlConfig
from methods.hybrid.propetl_lora import PropetlLoraConfig
from methods.hybrid.propetl_prefix import PropetlPrefixConfig
from methods.prompt.prefix import PrefixConfig
from methods.selective.head import HeadConfig

RATE, DECAY, STEPS, EPSILON = 1e-2, 0.1, 4, 1e-6
CONFIGS = {"adapter": PropetlConfig, "lora": PropetlLoraConfig, "prefix": PropetlPrefixConfig}
SIZES = {"adapter": {"bottleneck_size": 6}, "lora": {"r": 4, "lora_alpha": 6.0}, "prefix": {"prefix_length": 3}}


def exact_norm(self, hidden):
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def settings(former):
    named = {"optimizer": "adamw_hf" if former else "adamw", "adam_beta1": 0.9, "adam_beta2": 0.999}
    return types.SimpleNamespace(**named, adam_epsilon=EPSILON, weight_decay=DECAY)


class ByHand:
    """The same values, their effective weights, and AdamW: the former one of transformers, or torch's."""

    def __init__(self, form, model, family, kind, config, former):
        inside = {n.removeprefix("base_model.model."): p for n, p in model.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().clone().requires_grad_() for name, p in inside.items()}
        self.moments = {name: [torch.zeros_like(p), torch.zeros_like(p), 0] for name, p in inside.items()}
        self.form, self.config, self.former = form, config, former
        plain = {
            "adapter": PfeifferConfig(bottleneck_size=6, activation=getattr(config, "activation", "relu")),
            "lora": HeadConfig(modules_to_save=["nothing"]),
            "prefix": PrefixConfig(prefix_length=3),
        }[form]
        self.network = peft.get_peft_model(build(family, kind), plain).double().base_model.model
        self.mark = next(iter(name for name in inside if "adapters." in name)).split(".default.")[0] + ".default."

    def own(self, name):
        return self.values[self.mark + name]

    def mask(self, scores):
        size = scores.abs()
        zeros = int((1 - self.config.keep) * scores.numel())
        hard = torch.ones_like(size).flatten()
        hard[size.detach().flatten().argsort()[:zeros]] = 0
        return hard.reshape(size.shape) + size - size.detach()

    def masked(self, key, name):
        """A layer's mask of one matrix, with the task's."""
        layer = self.mask(self.own(f"{key}.form.masks.own.{name}.scores"))
        if self.task is None:
            return layer
        task = self.mask(self.own(f"tasks.masks.{self.task}.{name}.scores"))
        return {"or": 1 - (1 - layer) * (1 - task), "and": layer * task, "add": layer + task}[self.config.combine]

    def block(self, kind):
        if not self.config.reparameterize:
            return self.own(f"prototype_{kind}.block")
        inner, outer = (
            [self.own(f"prototype_{kind}.{part}.{name}") for name in ("weight", "bias")] for part in ("inner", "outer")
        )
        hidden = torch.tanh(self.own(f"prototype_{kind}.embedding.weight") @ inner[0].T + inner[1])
        return hidden @ outer[0].T + outer[1]

    def weights(self):
        """What stands in the network, by its parameters' names."""
        made = {n.replace(".modules_to_save.default", ""): p for n, p in self.values.items() if "modules_to_save" in n}
        keys = {n.removeprefix(self.mark).split(".form.")[0] for n in self.values if ".form.masks." in n}
        for key in keys:
            if self.form == "adapter":
                for name in ("down", "up"):
                    weight = self.own(f"prototype.{name}.weight") * self.masked(key, name)
                    made[f"adapters.pfeiffer_.default.{key}.form.{name}.weight"] = weight
                    made[f"adapters.pfeiffer_.default.{key}.form.{name}.bias"] = self.own(f"prototype.{name}.bias")
            elif self.form == "lora":
                path = key.replace("/", ".")
                role = "query" if path.rsplit(".", 1)[1].startswith("q") else "value"
                a, b = (self.own(f"prototype_{role}.{x}") * self.masked(key, f"{role}_{x}") for x in "ab")
                made[f"{path}.weight"] = self.network.get_parameter(f"{path}.weight").detach() + 6.0 / 4 * b @ a
            else:
                cross = "encoder_attn" in key or "EncDec" in key
                kind = "cross" if cross else "decoder" if "decoder" in key else "encoder"
                made[f"adapters.prefix_.default.{key}.form.block"] = self.block(kind) * self.masked(key, "block")
        return made

    def step(self, inputs, task, rate_of):
        self.task = task
        kept = {key: value for key, value in inputs.items() if key != "labels"}
        loss = task_loss(functional_call(self.network, self.weights(), (), kept).logits, inputs["labels"])
        found = torch.autograd.grad(loss, list(self.values.values()), allow_unused=True)
        norm = torch.cat([g.flatten() for g in found if g is not None]).norm()
        for (name, value), gradient in zip(self.values.items(), found, strict=True):
            if gradient is None and self.config.idle_tasks_move and self.moments[name][2]:
                gradient = torch.zeros_like(value)
            if gradient is not None:
                spared = name.endswith(("bias", "LayerNorm.weight"))
                self.move(
                    name, value.data, gradient * min(1.0, 1 / (norm + 1e-6)), rate_of(name), 0 if spared else DECAY
                )
        return loss.item()

    def move(self, name, value, gradient, rate, decay):
        first, second, count = self.moments[name]
        self.moments[name][2] = count = count + 1
        first.mul_(0.9).add_(0.1 * gradient)
        second.mul_(0.999).add_(0.001 * gradient**2)
        if self.former:
            value -= rate * math.sqrt(1 - 0.999**count) / (1 - 0.9**count) * first / (second.sqrt() + EPSILON)
            value -= rate * decay * value
        else:
            value *= 1 - rate * decay
            value -= rate * (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + EPSILON)


CASES = [
    ("adapter", "t5", "generation", {"tasks": ["a", "b"]}, True),
    ("adapter", "t5", "generation", {"tasks": ["a", "b"], "masks_first": True, "idle_tasks_move": True}, True),
    ("adapter", "t5", "generation", {"masks_first": True}, True),
    ("adapter", "roberta", "classification", {"keep": 0.5, "activation": "relu", "transposed_scores": True}, True),
    ("adapter", "bart", "generation", {"tasks": ["a", "b"], "combine": "and"}, False),
    ("lora", "roberta", "classification", {"tasks": ["a", "b"], "keep": 0.4}, True),
    ("lora", "t5", "generation", {"keep": 0.4}, False),
    ("lora", "bart", "generation", {"tasks": ["a", "b"], "combine": "add"}, True),
    ("prefix", "roberta", "classification", {"reparameterize": True, "network_width": 5}, True),
    ("prefix", "deberta", "classification", {"keep": 0.5}, False),
    ("prefix", "t5", "generation", {"tasks": ["a", "b"], "keep": 0.3}, True),
    ("prefix", "bart", "generation", {"tasks": ["a", "b"], "combine": "add"}, True),
]


@pytest.mark.parametrize(("form", "family", "kind", "fields", "former"), CASES,
                         ids=["-".join((f, family, *x)) for f, family, _, x, _ in CASES])  # fmt: skip
def test_whole_training(form, family, kind, fields, former, monkeypatch):
    monkeypatch.setattr(T5LayerNorm, "forward", exact_norm)  # the original computes its variance in float32
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # and its softmax
    head = sites(family)["head_modules"] if kind == "classification" else None
    torch.manual_seed(0)
    config = CONFIGS[form](**SIZES[form] | fields, modules_to_save=head)
    model = peft.get_peft_model(build(family, kind), config).double().train()
    method, inputs, tasks = hooks.find(model), batch(family, kind), fields.get("tasks")
    plain = ByHand(form, model, family, kind, config, former)
    method.on_train_begin(STEPS)
    optimizer = optimizer_of(model, method, settings(former), RATE)
    for step in range(STEPS):
        left = (STEPS - step) / STEPS
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * left
        if tasks:
            method.set_task(tasks[step % 2])
        loss = method.loss(model, inputs, task_loss)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        method.on_pre_optimizer_step(step, optimizer)
        optimizer.step()
        method.on_optimizer_step(step)
        optimizer.zero_grad()

        assert [group["lr"] for group in optimizer.param_groups] == [
            g["initial_lr"] * left for g in optimizer.param_groups
        ]

        def rate_of(name, step=step):
            of_mask = name.endswith(".scores")
            if config.masks_first and step < 2:  # the released loop's scheduler does not step at first
                return 3 * RATE * (step == 0 and of_mask)
            return RATE * (STEPS - step + config.masks_first) / STEPS * (config.mask_rate if of_mask else 1)

        expected = plain.step(inputs, step % 2 if tasks else None, rate_of)
        assert_close(loss.item(), expected, rtol=1e-9, atol=1e-9)
    found = {n.removeprefix("base_model.model."): p for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in found.items():
        assert_close(parameter.detach(), plain.values[name].detach(), rtol=1e-8, atol=1e-9, msg=name)


def test_the_late_schedule_goes_on_after_a_restart():
    """`masks_first` runs a step late: what the loop had set the step before is part of what a checkpoint keeps."""
    first, second = (peft.get_peft_model(build("t5", "generation"), PropetlConfig(bottleneck_size=4, masks_first=True))
                     for _ in range(2))  # fmt: skip
    seen = {}
    for model, steps in ((first, (0, 1, 2, 3)), (second, (4,))):
        method, adamw = hooks.find(model), torch.optim.AdamW(hooks.optimizer_groups(model, RATE, 0.0), lr=RATE)
        if model is second:
            method.load_training_state(hooks.find(first).training_state())
        for step in steps:
            for group in adamw.param_groups:
                group["lr"] = 10.0 * step + 1
            method.on_pre_optimizer_step(step, adamw)
            seen[step] = {group["lr"] for group in adamw.param_groups}
            method.on_optimizer_step(step)
            assert {group["lr"] for group in adamw.param_groups} == {10.0 * step + 1}
    assert (seen[1], seen[2], seen[3], seen[4]) == ({0.0}, {11.0}, {21.0}, {31.0})
