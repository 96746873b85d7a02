from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from settings import training
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    RobertaConfig,
    T5Config,
    Trainer,
)

from harness.errors import ConfigError
from harness.optimizer import FormerAdamW, align, build, parameter_groups, set_rates, trained
from methods.hooks import Hooks

SETTINGS = training(
    learning_rate=0.1, epochs=1, max_steps=None, batch_size=1, accumulation_steps=1, optimizer="adamw",
    warmup_steps=None, warmup_ratio=0.0, schedule="linear", weight_decay=0.01, adam_beta1=0.85, adam_beta2=0.95,
    adam_epsilon=1e-7, clip_norm=None, label_smoothing=0.0, precision="float32", select="last", evaluate_every_epochs=None,
)  # fmt: skip
ENCODER = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def models():
    classes, texts = AutoModelForSequenceClassification.from_config, AutoModelForSeq2SeqLM.from_config
    positions = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm"}
    yield classes(DebertaV2Config(**ENCODER, **positions))
    yield classes(RobertaConfig(**ENCODER))
    yield classes(BertConfig(**ENCODER))
    yield texts(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    yield texts(BartConfig(vocab_size=9, d_model=8, **heads, **layers))
    config = LoraConfig(target_modules=["query", "value"], use_dora=True, bias="all", task_type="SEQ_CLS")
    yield get_peft_model(classes(RobertaConfig(**ENCODER)), config)


def test_the_same_parameters_decay_as_in_transformers_trainer():
    for model in models():
        theirs = set(Trainer.get_decay_parameter_names(None, model))
        groups = parameter_groups(model, Hooks(), SETTINGS, 0.1)
        ours = {id(p): group.get("weight_decay", "default") for group in groups for p in group["params"]}
        wanted = {
            id(p): "default" if name in theirs else 0.0 for name, p in model.named_parameters() if p.requires_grad
        }
        assert ours == wanted, type(model).__name__


class OwnRates(Hooks):
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def param_groups(self, base_lr):
        first, norm, last = self.model
        fixed = {"params": list(last.parameters()), "lr": 3 * base_lr, "weight_decay": 0.5}
        return [{"params": [*first.parameters(), *norm.parameters()], "lr": 2 * base_lr}, fixed]


def test_a_method_may_have_rates_of_its_own_and_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    model[1].weight.requires_grad_(False)
    optimizer = build(model, OwnRates(model), SETTINGS, 0.1)
    found = [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert found == [(0.2, 0.01, 1), (0.2, 0.0, 2), (pytest.approx(0.3), 0.5, 2)]
    assert optimizer.param_groups[0]["betas"] == (0.85, 0.95) and optimizer.param_groups[0]["eps"] == 1e-7
    assert [p.requires_grad for p in trained(optimizer, model)] == [True] * 5
    assert [id(p) for p in trained(optimizer, model)] == [id(p) for p in model.parameters() if p.requires_grad]


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="nothing is trained"):
        build(nn.Linear(2, 2).requires_grad_(False), Hooks(), SETTINGS, 0.1)


def test_a_gradient_in_another_layout_gives_the_same_update():
    """torch's fused kernel would read its raw memory; `align` is what makes this hold."""
    start, gradient = torch.randn(5, 7), torch.randn(7, 5)
    model, plain = nn.Linear(7, 5, bias=False), nn.Parameter(start.clone())
    model.weight.data.copy_(start)
    optimizer = build(model, Hooks(), SETTINGS, 0.1)
    assert optimizer.param_groups[0]["fused"]
    reference = torch.optim.AdamW([plain], lr=0.1, betas=(0.85, 0.95), eps=1e-7, weight_decay=0.01, fused=False)
    model.weight.grad, plain.grad = gradient.t(), gradient.t().clone()
    align([model.weight])
    optimizer.step()
    reference.step()
    torch.testing.assert_close(model.weight, plain)


def test_a_transposed_parameter_is_not_given_to_the_fused_kernel():
    model = nn.Linear(7, 5)
    model.weight = nn.Parameter(torch.randn(7, 5).t())
    optimizer = build(model, Hooks(), SETTINGS, 0.1)
    assert not optimizer.param_groups[0]["fused"]
    optimizer = build(nn.Linear(7, 5), Hooks(), SETTINGS, 0.1)
    optimizer.add_param_group({"params": [nn.Parameter(torch.randn(7, 5).t())]})
    with pytest.raises(ValueError, match="not contiguous"):
        set_rates(optimizer, 0, 0, 0, 10, "linear")


def former(weights, gradients, rates, beta1, beta2, epsilon, decay):
    """transformers' AdamW up to version 4, in plain numbers: epsilon before the correction, decay after the update."""
    first, second = [0.0] * len(weights), [0.0] * len(weights)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for i, g in enumerate(gradient):
            first[i] = beta1 * first[i] + (1 - beta1) * g
            second[i] = beta2 * second[i] + (1 - beta2) * g * g
            step = rate * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
            weights[i] -= step * first[i] / (second[i] ** 0.5 + epsilon)
            weights[i] -= rate * decay * weights[i]
    return weights


def test_the_former_adamw_is_the_authors():
    model = nn.Linear(3, 2, bias=False).double()
    settings = replace(SETTINGS, optimizer="adamw_hf", weight_decay=0.1, adam_epsilon=1e-2)
    optimizer = build(model, Hooks(), settings, 0.1)
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(2, 3, generator=generator).double() for _ in range(7)]
    start, rates = model.weight.detach().flatten().tolist(), []
    for step, gradient in enumerate(gradients):
        rates += set_rates(optimizer, step, 0, 2, 10, "linear")
        model.weight.grad = gradient.clone()
        optimizer.step()
    found = former(start, [g.flatten().tolist() for g in gradients], rates, 0.85, 0.95, 1e-2, 0.1)
    wanted = torch.tensor(found, dtype=torch.float64)
    torch.testing.assert_close(model.weight.detach().flatten(), wanted, rtol=0, atol=1e-12)


def test_the_former_adamw_counts_each_parameters_own_steps():
    old, new = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = FormerAdamW([old], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    old.grad = torch.ones(2)
    optimizer.step()
    optimizer.add_param_group({"params": [new], "lr": 0.1, "start_step": 1})
    new.grad, old.grad = torch.ones(2), None
    set_rates(optimizer, 2, 0, 0, 10, "constant")
    optimizer.step()
    torch.testing.assert_close(new, old)  # a first step is a first step, whenever it comes
    assert optimizer.state[old]["step"] == optimizer.state[new]["step"] == 1


def test_paged_adamw_without_a_gpu_is_torchs():
    plain, paged = nn.Linear(3, 2), nn.Linear(3, 2)
    paged.load_state_dict(plain.state_dict())
    for model, name in ((plain, "adamw"), (paged, "paged_adamw")):
        optimizer = build(model, Hooks(), replace(SETTINGS, optimizer=name), 0.1)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert torch.equal(plain.weight, paged.weight)
    with pytest.raises(ConfigError, match="Allowed: adamw, adamw_hf, paged_adamw"):
        replace(SETTINGS, optimizer="sgd")
