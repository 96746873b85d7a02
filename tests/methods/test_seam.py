"""Shapes that methods to come will have, each a small class on methods.tuner, with no help from the loop.

Here: two forwards in one objective, several forms in one adapter, training in phases. test_seam_places.py: a side
network, a prompt that depends on the input, a re-parameterisation of all weights.
"""

from dataclasses import dataclass

import pytest
import torch
from seams import Bottleneck, Gated, LowRank, Scale, attach, check_life, each, named
from tiny import batch, build, logits, randomise, task_loss, train

from methods.hooks import Phase, find
from methods.parts import Activation
from methods.tuner import Tuner, TunerConfig, register

# (a) two forwards, one objective ---------------------------------------------------------------------------------


@dataclass
class SeamConsistencyConfig(TunerConfig):
    """Adapters with dropout; their two draws should agree."""

    weight: float = 1.0


class SeamConsistencyTuner(Tuner):
    def build(self, model, config):
        width = model.config.hidden_size
        return {site: Activation(site, Bottleneck(width, dropout=0.5)) for site in named(model, "ffn_output")}

    def loss(self, model, batch, task_loss):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        one, two = model(**inputs).logits, model(**inputs).logits
        self.forwards = getattr(self, "forwards", 0) + 2
        p, q = one.log_softmax(-1), two.log_softmax(-1)
        agreement = ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
        return task_loss(one, batch["labels"]) + self.peft_config["default"].weight * agreement


register("seam_consistency", SeamConsistencyConfig, SeamConsistencyTuner)


@each
def test_consistency_of_two_forwards(family, kind, tmp_path):
    model = randomise(attach(SeamConsistencyConfig, family, kind), 0.3)
    losses = train(model, [batch(family, kind)], steps=3)
    assert model.base_model.forwards == 6
    plain = task_loss(logits(model, batch(family, kind)), batch(family, kind)["labels"])
    torch.manual_seed(0)
    assert find(model).loss(model.train(), batch(family, kind), task_loss) != plain
    assert all(loss == loss for loss in losses)


# (b) three forms in one adapter ----------------------------------------------------------------------------------


@dataclass
class SeamCompositeConfig(TunerConfig):
    """A gated bottleneck after the feed-forward, gated low rank at queries and values, scales on keys."""


class SeamCompositeTuner(Tuner):
    def build(self, model, config):
        width = model.config.hidden_size
        parts = {site: Activation(site, Gated(Bottleneck(width), width)) for site in named(model, "ffn_output")}
        for site in named(model, "query_value"):
            layer = model.get_submodule(site)
            parts[f"{site}.low_rank"] = Activation(site, Gated(LowRank(layer), layer.in_features), reads="input")
        for site in named(model, "key"):
            parts[site] = Activation(site, Scale(model.get_submodule(site).out_features), add=False)
        return parts


register("seam_composite", SeamCompositeConfig, SeamCompositeTuner)


@each
def test_composite_of_three_forms(family, kind, tmp_path):
    model, inputs = attach(SeamCompositeConfig, family, kind), batch(family, kind)
    assert torch.equal(logits(model, inputs), logits(build(family, kind), inputs))
    train(model, [inputs], steps=3)
    adapter = model.base_model.adapter()
    assert {type(part.form) for part in adapter.parts()} == {Gated, Scale}
    assert all(p.grad is None or torch.isfinite(p).all() for p in adapter.parameters())
    expected = logits(model, inputs)
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_adapter()
    assert torch.equal(logits(model, inputs), expected), "a refused merge leaves everything as it was"
    check_life(model, family, kind, tmp_path)


# (c) phases ------------------------------------------------------------------------------------------------------


@dataclass
class SeamPhasesConfig(TunerConfig):
    """First the way down with its own rate, then the way up."""


class SeamPhasesTuner(Tuner):
    def build(self, model, config):
        width = model.config.hidden_size
        return {site: Activation(site, Bottleneck(width)) for site in named(model, "ffn_output")}

    def phases(self):
        return [Phase("down", 0.5, learning_rate=0.05), Phase("up", 0.5)]

    def on_phase_begin(self, phase):
        self.seen = [*getattr(self, "seen", []), {n: p.detach().clone() for n, p in self.adapter().named_parameters()}]
        for name, parameter in self.adapter().named_parameters():
            parameter.requires_grad_(f".{phase.name}." in name)

    def on_train_end(self):
        self.on_phase_begin(Phase("all", 0.0))


register("seam_phases", SeamPhasesConfig, SeamPhasesTuner)


@each
def test_two_phases(family, kind, tmp_path):
    model, inputs = randomise(attach(SeamPhasesConfig, family, kind), 0.3), batch(family, kind)
    train(model, [inputs], steps=4)
    start, middle, end = model.base_model.seen
    for name in start:
        still = (torch.equal(start[name], middle[name]), torch.equal(middle[name], end[name]))
        assert still == ((False, True) if ".down." in name else (True, False)), name
    find(model).on_phase_begin(Phase("up", 0.5))
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with model.disable_adapter():
        logits(model, inputs)
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    model.set_adapter("default")
    check_life(model, family, kind, tmp_path)
