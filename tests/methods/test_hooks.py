"""The hooks' places, in the documented loop and in transformers.Trainer."""

from dataclasses import dataclass

import peft
import pytest
import torch
import transformers
from tiny import batch, build, rows, train
from torch import nn

from methods import hooks
from methods.parts import Activation
from methods.tuner import Tuner, TunerConfig, register


@dataclass
class HooksProbeConfig(TunerConfig):
    """A tuner that writes down what happens to its one scale."""

    rate: float | None = None
    two_phases: bool = False


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.ones(1))

    def forward(self, states):
        return states * self.value


class HooksProbeTuner(Tuner):
    def build(self, model, config):
        return {"scale": Activation("roberta.encoder.layer.0.output.dense", Scale(), add=False)}

    @property
    def scale(self):
        return self.adapter()["scale"].form.value

    def note(self, *what):
        self.log = [*getattr(self, "log", []), what]

    def phases(self):
        return [hooks.Phase("a", 0.5), hooks.Phase("b", 0.5)] if self.peft_config["default"].two_phases else []

    def param_groups(self, base_lr):
        rate = self.peft_config["default"].rate
        return [] if rate is None else [{"params": [self.scale], "lr": rate * base_lr}]

    def on_train_begin(self, total_steps):
        self.note("begin", total_steps)

    def on_pre_optimizer_step(self, step, optimizer):
        self.note("pre", step, self.scale.item(), self.scale.grad.item())

    def on_optimizer_step(self, step):
        self.note("post", step, self.scale.item(), self.scale.grad.item())

    def on_train_end(self):
        self.note("end")


register("hooks_probe", HooksProbeConfig, HooksProbeTuner)


def attach(**fields):
    return peft.get_peft_model(build("roberta"), HooksProbeConfig(task_type="SEQ_CLS", **fields))


def trainer(model, tmp_path, arguments=None, **options):
    given = transformers.TrainingArguments(
        tmp_path, **(arguments or {}), max_steps=3,
        per_device_train_batch_size=4, learning_rate=1e-2, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, max_grad_norm=1e-3,
    )  # fmt: skip
    return transformers.Trainer(
        model, given, train_dataset=rows("roberta"), callbacks=[hooks.HooksCallback()], **options
    )


def check(log, steps, clip):
    assert [entry[:2] for entry in log[1:-1]] == [(place, step) for step in range(steps) for place in ("pre", "post")]
    assert (log[0], log[-1]) == (("begin", steps), ("end",))
    for pre, post in zip(log[1:-1:2], log[2:-1:2], strict=True):
        assert pre[2] != post[2], "the update lies between the two"
        assert pre[3] == post[3] != 0, "gradients are still there"
        assert abs(pre[3]) <= clip, "and clipped"


def test_places_in_the_documented_loop():
    model = attach()
    train(model, [batch("roberta")], steps=3)
    check(model.base_model.log, 3, 1.0)


def test_places_in_trainer(tmp_path):
    model = attach()
    trainer(model, tmp_path).train()
    check(model.base_model.log, 3, 1.001e-3)


def test_trainer_refuses_phases_and_a_loss_of_its_own(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="trains in phases or computes its own loss"):
        trainer(attach(two_phases=True), tmp_path).train()
    monkeypatch.setattr(HooksProbeTuner, "loss", lambda *_: None)
    with pytest.raises(ValueError, match="trains in phases or computes its own loss"):
        trainer(attach(), tmp_path).train()


@pytest.mark.parametrize("option", [{"label_smoothing_factor": 0.1}, {"gradient_accumulation_steps": 2}])
def test_trainer_refuses_to_miscount_a_penalty(option, tmp_path, monkeypatch):
    monkeypatch.setattr(HooksProbeTuner, "penalty", lambda self: self.scale.sum())
    with pytest.raises(ValueError, match="adds a penalty"):
        trainer(attach(), tmp_path, arguments=option).train()
    trainer(attach(), tmp_path).train()


def test_own_rates_reach_the_optimizer_or_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has learning rates of its own"):
        trainer(attach(rate=10.0), tmp_path).train()
    model = attach(rate=10.0)
    groups = hooks.optimizer_groups(model, 1e-2, 0.1)
    assert [group["lr"] for group in groups] == [0.1, 1e-2, 1e-2]
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
    assert all(parameter.dim() > 1 for parameter in groups[1]["params"])
    assert (groups[1]["weight_decay"], groups[2]["weight_decay"]) == (0.1, 0.0)
    trainer(model, tmp_path, optimizers=(torch.optim.AdamW(groups), None)).train()
    assert len(model.base_model.log) == 8


def test_find():
    model = attach()
    assert hooks.find(model) is model.base_model
    assert hooks.find(nn.DataParallel(model)) is model.base_model
    for other in (build("roberta"), peft.get_peft_model(build("roberta"), peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["key"], feedforward_modules=[]))):  # fmt: skip
        silent = hooks.find(other)
        assert type(silent) is hooks.Hooks
        assert (silent.phases(), silent.penalty(), silent.param_groups(1.0), silent.trace()) == ([], None, [], {})
        assert silent.active_params() is None
