"""Six shapes that methods to come will have, each a small class on methods.tuner, with no help from the loop.

They prove the seams: two forwards in one objective, several forms in one adapter, a side network, a prompt that
depends on the input, a re-parameterisation of all weights, training in phases.
"""

import copy
from dataclasses import dataclass

import peft
import pytest
import torch
from tiny import FAMILIES, KINDS, batch, build, logits, randomise, sites, task_loss, train
from torch import nn
from torch.testing import assert_close

from methods import backbone
from methods import sites as places
from methods.hooks import Phase, find
from methods.parts import Activation, Part, Weight, arguments, hidden, with_hidden
from methods.tuner import Tuner, TunerConfig, register

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


# (c) a side network ----------------------------------------------------------------------------------------------


@dataclass
class SeamSideConfig(TunerConfig):
    """A ladder beside the encoder: reads every layer, backpropagates through none."""


class Ladder(Part):
    def __init__(self, encoder, layers, width, narrow=4):
        super().__init__()
        self.encoder, self.layers = encoder, layers
        self.down = nn.ModuleList(nn.Linear(width, narrow) for _ in layers)
        self.up = nn.Linear(narrow, width)
        self._read = []

    def mount(self, model):
        self.before(model.get_submodule(self.encoder), self._start)
        for layer in self.layers:
            self.after(model.get_submodule(layer), self._note)
        self.after(model.get_submodule(self.encoder), self._finish)

    def _start(self, module, args, kwargs):
        self._read = []

    def _note(self, module, args, kwargs, output):
        self._read.append(hidden(output).detach())

    def _finish(self, module, args, kwargs, output):
        side = torch.zeros(())
        for down, states in zip(self.down, self._read, strict=True):
            side = torch.tanh(down(states) + side)
        self._read = []
        return with_hidden(output, hidden(output).detach() + self.up(side))


class SeamSideTuner(Tuner):
    def build(self, model, config):
        layers = [path for path in named(model, "layer") if places.layer(path)[0] == "encoder"]
        encoder = layers[0].rpartition(".")[0].rpartition(".")[0]
        return {"ladder": Ladder(encoder, layers, model.config.hidden_size)}


register("seam_side", SeamSideConfig, SeamSideTuner)


@each
def test_side_network(family, kind, tmp_path):
    model, inputs = randomise(attach(SeamSideConfig, family, kind), 0.3), batch(family, kind)
    before = [parameter.clone() for parameter in model.base_model.adapter().parameters()]
    train(model, [inputs], steps=2)
    moved = [not torch.equal(*pair) for pair in zip(before, model.base_model.adapter().parameters(), strict=True)]
    assert all(moved)
    check_life(model, family, kind, tmp_path)


# (d) a prompt that depends on the input --------------------------------------------------------------------------


@dataclass
class SeamPromptConfig(TunerConfig):
    """Two vectors, computed from the mean embedding, put before the text (encoders: after the first token)."""


class Prompt(Part):
    """At the module that embeds; where a decoder attends to it, the decoder's mask grows too."""

    def __init__(self, site, decoder, width, count=2, after_first=False):
        super().__init__()
        self.site, self.decoder, self.count, self.skip = site, decoder, count, int(after_first)
        self.form = nn.Linear(width, count * width)

    def mount(self, model):
        self.__dict__["embed"] = model.get_input_embeddings()
        self.before(model.get_submodule(self.site), self._insert)
        if self.decoder:
            self.before(model.get_submodule(self.decoder), self._widen)

    def _insert(self, module, args, kwargs):
        given = arguments(module, args, kwargs)
        ids, mask = given.pop("input_ids"), given["attention_mask"]
        words = self.embed(ids)
        weight = mask.unsqueeze(-1).to(words.dtype)
        mean = (words * weight).sum(1) / weight.sum(1)
        prompt = self.form(mean).unflatten(-1, (self.count, -1))
        given["inputs_embeds"] = torch.cat([words[:, : self.skip], prompt, words[:, self.skip :]], dim=1)
        given["attention_mask"] = self._grown(mask)
        return (), {key: value for key, value in given.items() if value is not None}

    def _widen(self, module, args, kwargs):
        given = arguments(module, args, kwargs)
        given["encoder_attention_mask"] = self._grown(given["encoder_attention_mask"])
        return (), given

    def _grown(self, mask):
        return torch.cat([mask.new_ones(len(mask), self.count), mask], dim=1)


class SeamPromptTuner(Tuner):
    def build(self, model, config):
        names, width = dict(model.named_modules()), model.config.hidden_size
        if not model.config.is_encoder_decoder:
            return {"prompt": Prompt(model.base_model_prefix, None, width, after_first=True)}
        encoder, decoder = (next(n for n in names if n.split(".")[-1] == stack) for stack in ("encoder", "decoder"))
        return {"prompt": Prompt(encoder, decoder, width)}


register("seam_prompt", SeamPromptConfig, SeamPromptTuner)


@each
def test_input_dependent_prompt(family, kind, tmp_path):
    model, inputs = randomise(attach(SeamPromptConfig, family, kind), 0.3), batch(family, kind)
    together = logits(model, inputs)
    for row, length in enumerate((9, 7, 5)):
        single = {key: value[row : row + 1] for key, value in inputs.items()}
        single |= {key: single[key][:, :length] for key in ("input_ids", "attention_mask")}
        assert_close(logits(model, single)[0], together[row], rtol=1e-4, atol=1e-5)
    train(model, [inputs], steps=2)
    check_life(model, family, kind, tmp_path)


# (e) a re-parameterisation of every weight -----------------------------------------------------------------------


@dataclass
class SeamIntrinsicConfig(TunerConfig):
    """Every tensor moves in one random subspace that all share."""

    dimensions: int = 5
    seed: int = 11


class Shared(nn.Module):
    def __init__(self, dimensions):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(dimensions))


class Projected(nn.Module):
    def __init__(self, base, shared, generator):
        super().__init__()
        self.__dict__["shared"] = shared
        directions = torch.randn(*base.shape, len(shared.theta), generator=generator) / base.numel() ** 0.5
        self.register_buffer("directions", directions, persistent=False)

    def forward(self, base):
        return base + (self.directions @ self.shared.theta).to(base.dtype)


class SeamIntrinsicTuner(Tuner):
    def build(self, model, config):
        names, generator = backbone.aliases(model), torch.Generator().manual_seed(config.seed)
        shared = Shared(config.dimensions)
        own = backbone.parameters(model, config.modules_to_save or ())
        weights = {name: Weight(names[id(p)], Projected(p, shared, generator)) for name, p in own.items()}
        return {"shared": shared} | weights


register("seam_intrinsic", SeamIntrinsicConfig, SeamIntrinsicTuner)


@each
def test_reparameterisation_of_tied_weights(family, kind, tmp_path):
    model, inputs = attach(SeamIntrinsicConfig, family, kind), batch(family, kind)
    assert torch.equal(logits(model, inputs), logits(build(family, kind), inputs))
    adapter = model.base_model.adapter()
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 5
    if family in ("bart", "t5"):
        assert any(len(part.names) > 1 for part in adapter.parts()), "tied tensors have one part and several names"
    train(model, [inputs], steps=2)
    assert adapter["shared"].theta.abs().min() > 0
    merged = copy.deepcopy(model).double().merge_and_unload()
    assert_close(logits(merged, inputs), logits(copy.deepcopy(model).double(), inputs), rtol=1e-5, atol=1e-6)
    if family in ("bart", "t5") and kind == "generation":
        assert merged.lm_head.weight is merged.get_input_embeddings().weight
    check_life(model, family, kind, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_reparameterisation_gradient_is_the_chain_rule(family):
    """The oracle: the gradient of the plain model at the merged weights, projected by hand."""
    model, inputs = randomise(attach(SeamIntrinsicConfig, family, "classification"), 0.3), batch(family)
    find(model).loss(model, inputs, task_loss).backward()
    found = model.base_model.adapter()["shared"].theta.grad
    parts = list(copy.deepcopy(model).base_model.adapter().parts())
    merged = copy.deepcopy(model).merge_and_unload().requires_grad_(True)
    find(merged).loss(merged, inputs, task_loss).backward()
    expected = torch.zeros_like(found)
    for part in parts:
        gradient = merged.get_parameter(part.names[0]).grad
        expected += 0 if gradient is None else (part.form.directions * gradient.unsqueeze(-1)).flatten(0, -2).sum(0)
    assert_close(found, expected, rtol=1e-3, atol=1e-4)


# (f) phases ------------------------------------------------------------------------------------------------------


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
