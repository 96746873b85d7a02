"""The contract battery on computation: gradients, checkpointing, caches, padding and transformers.Trainer."""

import pytest
import torch
import transformers
from battery import classifiers, each, generators, limit, trained
from tiny import logits, randomise, rows, task_loss
from torch.testing import assert_close
from transformers.models.t5.modeling_t5 import T5LayerNorm

from methods import hooks


def exact_norm(self, hidden):
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


@each
def test_gradients_match_finite_differences(case, monkeypatch):
    monkeypatch.setattr(T5LayerNorm, "forward", exact_norm)  # the original computes its variance in float32
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # and its softmax
    model, inputs = randomise(case.attach().double(), 0.3), case.batch()
    torch.manual_seed(0)
    straight_through = case.row.scores or "no such name"
    parameters = [parameter for name, parameter in trained(model).items() if not name.endswith(straight_through)]
    directions = [torch.randn_like(parameter) for parameter in parameters]
    loss = task_loss(model(**{k: v for k, v in inputs.items() if k != "labels"}).logits, inputs["labels"])
    slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(slopes, directions, strict=True) if g is not None)
    values, step = [], 1e-7  # with more, T5's ReLUs change sides
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=sign * step)
        values.append(task_loss(logits(model, inputs), inputs["labels"]))
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(direction, alpha=sign * step)
    assert_close((values[0] - values[1]) / (2 * step), slope.detach(), rtol=1e-4, atol=1e-6)


@each
@pytest.mark.parametrize("reentrant", [False, True], ids=["new", "reentrant"])
def test_gradient_checkpointing_changes_no_gradient(case, reentrant):
    model, inputs = randomise(case.attach(), 0.3), case.batch()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.train()
        model.zero_grad()
        loss = hooks.find(model).loss(model, inputs, task_loss)
        if checkpointing and reentrant and (met := limit("reentrant checkpointing", case)):
            with met.raised():
                loss.backward()
            return
        loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in trained(model).items()})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, rtol=0, atol=1e-5 * max(1.0, gradient.abs().max().item()))


@generators
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_and_without_cache(case, beams):
    model, inputs = randomise(case.attach(), 0.3), case.batch()
    asked = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": beams}
    cached, uncached = (model.generate(**asked, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached, uncached)
    with model.disable_adapter():
        assert torch.equal(model.generate(**asked, **options), case.base().generate(**asked, **options))


@each
def test_padding_changes_no_logit(case):
    model, inputs = randomise(case.attach(), 0.3), case.batch(lengths=(9, 5))
    together = logits(model, inputs)
    for row, length in enumerate((9, 5)):
        single = {key: value[row : row + 1] for key, value in inputs.items()}
        single |= {key: single[key][:, :length] for key in ("input_ids", "attention_mask")}
        assert_close(logits(model, single)[0], together[row], rtol=1e-4, atol=1e-5)


@classifiers
def test_transformers_trainer(case, tmp_path):
    model = case.attach()
    before = {name: parameter.detach().clone() for name, parameter in trained(model).items()}
    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    options = {"train_dataset": rows(case.family), "callbacks": [hooks.HooksCallback()]}
    if hooks.find(model).param_groups(1e-2):  # rates of its own; the callback refuses Trainer's optimiser
        options["optimizers"] = (torch.optim.AdamW(hooks.optimizer_groups(model, 1e-2, 0.0)), None)
    transformers.Trainer(model, arguments, **options).train()
    assert any(not torch.equal(parameter, before[name]) for name, parameter in trained(model).items())
