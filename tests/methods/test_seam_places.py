"""More shapes of methods to come: a side network, an input-dependent prompt, a re-parameterisation of all weights."""

import copy
from dataclasses import dataclass

import pytest
import torch
from seams import attach, check_life, each, named
from tiny import FAMILIES, batch, build, logits, randomise, task_loss, train
from torch import nn
from torch.testing import assert_close

from methods import backbone
from methods import sites as places
from methods.hooks import find
from methods.parts import Part, Weight, arguments, hidden, with_hidden
from methods.tuner import Tuner, TunerConfig, register

# (d) a side network ----------------------------------------------------------------------------------------------


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


# (e) a prompt that depends on the input --------------------------------------------------------------------------


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


# (f) a re-parameterisation of every weight -----------------------------------------------------------------------


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
